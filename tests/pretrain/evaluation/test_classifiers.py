"""k-NN against a plain loop, and the linear probe on data of known difficulty."""

from collections import defaultdict
from math import exp

import pytest
import torch
from torch import Tensor

from pretrain.evaluation import classifiers
from pretrain.evaluation.classifiers import knn_top1, linear_top1


def clusters(samples: int, spread: float, seed: int, classes: int = 4, width: int = 16) -> tuple[Tensor, Tensor]:
    """Features [samples, width] around one centre per class, and their labels."""
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % classes
    return centres[labels] + spread * torch.randn(samples, width, generator=generator), labels


def knn_by_loop(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, k: int) -> float:
    correct = 0
    for x, label in zip(test, test_labels, strict=True):
        cosines = [float(x @ y / (x.norm() * y.norm())) for y in train]
        votes: dict[int, float] = defaultdict(float)
        for i in sorted(range(len(train)), key=lambda i: -cosines[i])[:k]:
            votes[int(train_labels[i])] += exp(cosines[i] / 0.07)
        correct += max(votes, key=lambda c: votes[c]) == label
    return correct / len(test)


@pytest.mark.parametrize("k", [1, 5, 20, 1000])
def test_knn_is_the_plain_loop(k, monkeypatch):
    train, test = clusters(120, 2.0, seed=0), clusters(50, 2.0, seed=1)
    expected = knn_by_loop(*train, *test, k)
    assert 0.3 < expected < 0.99
    assert knn_top1(*train, *test, k) == expected
    monkeypatch.setattr(classifiers, "_DISTANCES", 7 * 120)  # seven test features at a time
    assert knn_top1(*train, *test, k) == expected


@pytest.mark.parametrize(("cosine", "right"), [(0.90, 1.0), (0.97, 0.0)])
def test_a_near_neighbour_outvotes_two_far_ones(cosine, right):
    """exp(1 / 0.07) against 2 exp(cosine / 0.07): they balance at a cosine of 0.951."""
    train = torch.tensor([[1.0, 0.0], [cosine, (1 - cosine**2) ** 0.5], [cosine, -((1 - cosine**2) ** 0.5)]])
    assert knn_top1(train, torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.0]]), torch.tensor([0]), k=3) == right


def test_knn_does_not_see_lengths():
    (train, train_labels), (test, test_labels) = clusters(120, 1.0, seed=0), clusters(50, 1.0, seed=1)
    scales = torch.linspace(0.01, 100, len(train))[:, None]
    assert knn_top1(train * scales, train_labels, test * 3, test_labels, 5) == knn_top1(
        train, train_labels, test, test_labels, 5
    )


def test_linear_probe_separates_what_is_separable_however_it_is_scaled():
    (train, train_labels), (test, test_labels) = clusters(200, 0.2, seed=0), clusters(80, 0.2, seed=1)
    assert linear_top1(train, train_labels, test, test_labels) == 1
    scales, offset = torch.logspace(-4, 4, 16), 1000.0
    assert linear_top1(train * scales + offset, train_labels, test * scales + offset, test_labels) >= 0.9


def test_linear_probe_reads_no_labels_from_noise():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(800) % 4
    noise = torch.randn(800, 16, generator=generator)
    assert 0.15 < linear_top1(noise[:400], labels[:400], noise[400:], labels[400:]) < 0.35


def test_linear_probe_finds_what_neighbours_miss_and_ignores_constant_features():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 40, generator=generator)
    x[:, 7] = 3.0
    labels = (x[:, 0] > 0).long()  # one dimension of many tells the class
    parts = x[:400], labels[:400], x[400:], labels[400:]
    assert linear_top1(*parts) > 0.93 > 0.8 > knn_top1(*parts, k=5)
    assert linear_top1(*parts) == linear_top1(*parts)


def test_one_scale_for_all_features_keeps_rare_counts_rare():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 2
    noise = (torch.rand(300, 400, generator=generator) < 0.01).float()
    counts = torch.cat([2.0 * torch.stack([labels, 1 - labels], 1), noise], dim=1)
    counts[torch.rand(300, generator=generator) < 0.3, :2] = 0.0  # what tells the class is not always there
    parts = counts[:100], labels[:100], counts[100:], labels[100:]
    assert linear_top1(*parts, each=False) > linear_top1(*parts) + 0.05
