"""Classifiers on frozen features: weighted k-NN and logistic regression."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

_TEMPERATURE = 0.07  # of the neighbours' votes; source: DINO (arXiv 2104.14294) and Wu et al. (arXiv 1805.01978)
_PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)  # candidates of the linear probe
_DISTANCES = 2**24  # similarities in memory at a time


def knn_top1(train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor, k: int) -> float:
    """Accuracy of the vote of the k nearest training features by cosine similarity s, weighted with exp(s / 0.07).

    The weights are those of DINO's protocol. Unlike a plain majority, they leave no ties. Features are fp32 [N, D],
    labels int64 [N] from 0. Test features are processed in chunks, which bounds the memory.
    """
    train, test = normalize(train_features, dim=1), normalize(test_features, dim=1)
    classes = int(train_labels.max()) + 1
    correct = 0
    rows = max(1, _DISTANCES // len(train))
    for some, labels in zip(test.split(rows), test_labels.split(rows), strict=True):
        similarity, nearest = (some @ train.T).topk(min(k, len(train)), dim=1)
        votes = torch.zeros(len(some), classes, device=some.device)
        votes.scatter_add_(1, train_labels[nearest], (similarity / _TEMPERATURE).exp())
        correct += int((votes.argmax(1) == labels).sum())
    return correct / len(test)


def linear_top1(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor, each: bool = True
) -> float:
    """Accuracy of multinomial logistic regression on features standardised by the training set.

    Each feature is divided by its own deviation, or without `each` by one deviation of all features: for counts, whose
    deviations distinguish rare words. The weight penalty is the best one on every fifth training sample after a fit to
    the others. Shapes as in `knn_top1`. Deterministic.
    """
    mean, std = train_features.mean(0), train_features.std(0)
    std = std if each else std.square().mean().sqrt()
    scale = torch.where(std > 1e-6, 1 / std, 0.0)  # constant features carry no information
    train, test = (train_features - mean) * scale, (test_features - mean) * scale
    penalty, weight = _choose_penalty(train, train_labels)
    return _accuracy(_logistic(train, train_labels, penalty, weight), test, test_labels)


def _choose_penalty(x: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """Best penalty on held-out samples, and the weights of its fit.

    Penalties are tried from strong to weak until the accuracy falls. Each fit starts from the previous one: that halves
    the work.
    """
    held_out = torch.arange(len(x), device=x.device) % 5 == 4
    weight = x.new_zeros(x.shape[1] + 1, int(labels.max()) + 1)
    best, best_score = (_PENALTIES[0], weight), -1.0
    for penalty in _PENALTIES:
        weight = _logistic(x[~held_out], labels[~held_out], penalty, weight)
        score = _accuracy(weight, x[held_out], labels[held_out])
        if score < best_score:
            break
        best, best_score = (penalty, weight), score
    return best


def _logistic(x: Tensor, labels: Tensor, penalty: float, start: Tensor) -> Tensor:
    """Weights [D + 1, classes] that minimise mean cross entropy + penalty / 2 * |weights|^2, by L-BFGS.

    The last row is the bias, which has no penalty.
    """
    x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
    weight = start.clone().requires_grad_()
    # An iteration that gains less than 1e-4 nats changes no accuracy that matters.
    optimizer = torch.optim.LBFGS([weight], max_iter=100, tolerance_change=1e-4, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(x @ weight, labels) + penalty / 2 * weight[:-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weight.detach()


def _accuracy(weight: Tensor, x: Tensor, labels: Tensor) -> float:
    return float(((x @ weight[:-1] + weight[-1]).argmax(1) == labels).float().mean())
