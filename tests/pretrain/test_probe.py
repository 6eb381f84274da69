"""k-NN against a plain loop, the linear probe on data of known difficulty, and the probe of a network."""

from collections import defaultdict
from dataclasses import replace
from math import exp
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch import distributed as dist

from configs.compose import to_yaml
from configs.schema_commands import BuildConfig, ProbeCommandConfig
from configs.schema_running import ProbeConfig
from data_shards.batch import MaskedBatch, TokenSpan
from data_shards.making.build import build
from models.data2vec import Data2Vec
from pretrain.checkpoints import reading
from pretrain.evaluation import classifiers
from pretrain.evaluation.classifiers import knn_top1, linear_top1
from pretrain.evaluation.probing import features, probe, table
from pretrain.probe import main
from pretrain.reporting.metrics import ProbeResult
from tests.models.common import tiny_config
from tests.own import own


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


def test_table_names_the_networks_and_the_pixels():
    text = table(
        {
            "untrained network": ProbeResult("vision", 0.5, 0.6, 0.7, 0.8, k=20, train_samples=50, test_samples=20),
            "teacher at step 9": ProbeResult("vision", 0.75, 0.65, 0.7, 0.8, k=20, train_samples=50, test_samples=20),
        }
    )
    assert text.splitlines() == [
        "top-1 accuracy on 20 held-out images, 50 labelled images as reference",
        "                   20-NN  linear",
        "untrained network  0.500   0.600",
        "teacher at step 9  0.750   0.650",
        "raw pixels         0.700   0.800",
    ]


class LengthPlusId(torch.nn.Module):
    """A network whose feature is made from a text's length and first token; it remembers the batches it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[int]] = []

    def features(self, batch: MaskedBatch, weights: str) -> Tensor:
        self.batches.append(batch.lengths.tolist())
        assert batch.inputs.shape[1] == batch.lengths.max()  # no padding that is not needed
        return (batch.inputs[:, :1] + 100 * batch.lengths[:, None]).float()


LENGTHS = [3, 9, 4, 8, 5, 7, 6, 2, 3, 9, 4]


def made_up_texts(lengths: list[int]) -> tuple[MaskedBatch, list[int]]:
    """Texts of these lengths, and what LengthPlusId makes of them."""
    count, longest = len(lengths), max(lengths)
    ids = torch.arange(count, dtype=torch.int32)[:, None].expand(-1, longest)
    mask = torch.zeros(count, longest, dtype=torch.bool)
    batch = MaskedBatch(
        modality="text",
        inputs=ids,
        lengths=torch.tensor(lengths),
        sample_ids=torch.arange(count),
        masks=mask[:, None],
        span=TokenSpan(1, 1),
    )
    return batch, [i + 100 * length for i, length in enumerate(lengths)]


def features_on_two_ranks(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model, (batch, _) = LengthPlusId(), made_up_texts(LENGTHS)
    got = features(model, batch, "teacher", size=2, device=torch.device("cpu"))
    torch.save((got, model.batches), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_ranks_share_the_samples_in_equal_batches_of_like_length(tmp_path):
    torch.multiprocessing.spawn(features_on_two_ranks, (tmp_path,), nprocs=2)
    expected = made_up_texts(LENGTHS)[1]
    seen = [[[2, 3], [4, 6], [8, 9]], [[3, 4], [5, 7], [9, 9]]]  # sorted, dealt out; the longest twice
    for rank in range(2):
        got, batches = torch.load(tmp_path / f"{rank}.pt")
        assert got.flatten().tolist() == expected
        assert batches == seen[rank]


def test_one_process_computes_every_sample():
    batch, expected = made_up_texts(LENGTHS[:5])
    assert features(LengthPlusId(), batch, "teacher", size=4, device=torch.device("cpu")).flatten().tolist() == expected


@pytest.fixture
def shards(tmp_path) -> str:
    """Labelled shards of noise images: class 0 is reddish, class 1 is bluish."""
    generator = np.random.default_rng(0)
    for i in range(60):
        pixels = generator.integers(0, 120, (16, 16, 3), dtype=np.uint8)
        pixels[..., 2 * (i % 2)] += 130
        (tmp_path / "images" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / str(i % 2) / f"{i}.png")
    build(BuildConfig(source="imagefolder", input=str(tmp_path / "images"), output=str(tmp_path / "shards"), workers=1))
    return str(tmp_path / "shards")


def test_probe_of_a_network_reads_what_its_images_show(shards):
    samples = ProbeConfig(train_shards=shards, test_shards=shards, train_samples=40, test_samples=60, k=3)
    config = replace(tiny_config(), probe=samples)
    model = Data2Vec(config)
    result = probe(model, own(config))
    assert (result.k, result.train_samples, result.test_samples) == (3, 40, 60)
    assert result.knn_top1 == result.linear_top1 == result.baseline_knn_top1 == result.baseline_linear_top1 == 1
    torch.nn.init.zeros_(model.teacher.patch_embedding.weight)  # blind
    assert probe(model, own(config)).knn_top1 == probe(model, own(config), "teacher").linear_top1 == 0.5
    assert probe(model, own(config), "student") == result


def test_the_command_probes_the_weights_beside_the_untrained_network(shards, tmp_path, monkeypatch, capsys):
    config = tiny_config()
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    blind = Data2Vec(config).student.state_dict()
    blind["patch_embedding.weight"] = torch.zeros_like(blind["patch_embedding.weight"])
    monkeypatch.setattr(reading, "load_weights", lambda run, weights: (blind, 5))
    with pytest.raises(ValueError, match="names no labelled shards: add train_shards=PATTERN"):
        main(ProbeCommandConfig(run=str(tmp_path)))
    main(ProbeCommandConfig(run=str(tmp_path), train_shards=shards, test_shards=shards, k=3))
    assert capsys.readouterr().out.splitlines()[2:] == [
        "untrained network  1.000   1.000",
        "teacher at step 5  0.500   0.500",
        "raw pixels         1.000   1.000",
    ]
