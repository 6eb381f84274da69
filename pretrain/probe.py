"""How much of the labels a linear map or the neighbours can read from frozen features, beside raw pixels.

python -m pretrain.probe run=DIR [weights=teacher|student] [train_shards=... test_shards=... k=...]
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, normalize

from configs.command import run
from configs.compose import from_yaml
from configs.schema import PretrainConfig, ProbeCommandConfig
from data_shards.labelled import labelled_images
from models.data2vec import Data2Vec, Weights
from pretrain import distributed
from pretrain.checkpoint import load_weights
from pretrain.metrics import ProbeResult

_TEMPERATURE = 0.07  # of the neighbours' votes: DINO (arXiv 2104.14294) and Wu et al. (arXiv 1805.01978)
_PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)  # tried for the linear probe
_PIXEL_SIDE = 32  # larger images are averaged down to this side for the raw-pixel baseline
_DISTANCES = 2**24  # similarities held at once


def knn_top1(train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor, k: int) -> float:
    """Accuracy of the vote of the k nearest training features by cosine similarity s, each weighing exp(s / 0.07).

    The weights are DINO's: the published protocol, and unlike a plain majority it has no ties to break. Features
    [N, D] fp32, labels int64 [N] from 0. Memory is bounded: test features are taken in chunks.
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


def linear_top1(train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor) -> float:
    """Accuracy of multinomial logistic regression on features standardised with the training set's mean and deviation.

    The weight penalty is the one that does best on every fifth training sample after a fit to the others. Shapes as
    in `knn_top1`; deterministic.
    """
    mean, std = train_features.mean(0), train_features.std(0)
    scale = torch.where(std > 1e-6, 1 / std, 0.0)  # a feature that never varies says nothing
    train, test = (train_features - mean) * scale, (test_features - mean) * scale
    penalty, weight = _choose_penalty(train, train_labels)
    return _accuracy(_logistic(train, train_labels, penalty, weight), test, test_labels)


def _choose_penalty(x: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """The best penalty on held-out samples and the weights of its fit, going from strong to weak until it gets worse.

    Each fit starts from the one before, which halves the work.
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


def pixels(images: Tensor) -> Tensor:
    """uint8 [N, 3, S, S] as fp32 features [N, D], averaged down to at most 32 pixels a side; equal channels once."""
    if images.shape[-1] > _PIXEL_SIDE:
        images = torch.cat([adaptive_avg_pool2d(part.float(), _PIXEL_SIDE) for part in images.split(256)])
    grey = bool((images[:, :1] == images).all())
    return (images[:, :1] if grey else images).flatten(1).float() / 255


def features(model: Data2Vec, images: Tensor, weights: Weights, batch: int, device: torch.device) -> Tensor:
    """Features fp32 [N, H] of all images on every rank; each rank computes its share.

    Every rank runs the same number of equal batches, repeating images at the end, since ZeRO 3 gathers parameters in
    each forward pass.
    """
    rank, world = distributed.rank(), distributed.world()
    share = -(-len(images) // (world * batch)) * batch
    mine = (torch.arange(share) + rank * share) % len(images)
    parts = [model.features(images[some].to(device), weights) for some in mine.split(batch)]
    local = torch.cat(parts)
    if world == 1:
        return local[: len(images)]
    shares = [torch.empty_like(local) for _ in range(world)]
    dist.all_gather(shares, local)
    return torch.cat(shares)[: len(images)]


def probe(model: Data2Vec, config: PretrainConfig, weights: Weights = "teacher") -> ProbeResult:
    """Probe the features of the model on `config.probe`'s images; every rank calls it and gets the same result.

    Raises ValueError where shards are not named, are missing or hold no labels.
    """
    device = next(model.parameters()).device
    train, train_labels = _images("train", config.probe.train_shards, config, config.probe.train_samples)
    test, test_labels = _images("test", config.probe.test_shards, config, config.probe.test_samples)
    train_labels, test_labels = train_labels.to(device), test_labels.to(device)
    batch = config.batch.micro
    sets = (
        (features(model, train, weights, batch, device), features(model, test, weights, batch, device)),
        (pixels(train).to(device), pixels(test).to(device)),
    )
    knn, pixels_knn = (knn_top1(a, train_labels, b, test_labels, config.probe.k) for a, b in sets)
    linear, pixels_linear = (linear_top1(a, train_labels, b, test_labels) for a, b in sets)
    return ProbeResult(knn, linear, pixels_knn, pixels_linear, config.probe.k, len(train), len(test))


def table(results: dict[str, ProbeResult]) -> str:
    """Lines to print: one network per name, raw pixels last. All results are of the same images."""
    one = next(iter(results.values()))
    rows = [(name, result.knn_top1, result.linear_top1) for name, result in results.items()]
    rows.append(("raw pixels", one.pixels_knn_top1, one.pixels_linear_top1))
    knn_header, width = f"{one.k}-NN", max(len(name) for name, _, _ in rows)
    lines = [f"{name:{width}}  {knn:{max(len(knn_header), 5)}.3f}  {linear:6.3f}" for name, knn, linear in rows]
    title = f"top-1 accuracy on {one.test_samples} held-out images, {one.train_samples} labelled images as reference"
    return "\n".join([title, f"{'':{width}}  {knn_header:>5}  linear", *lines])


def _images(split: Literal["train", "test"], shards: str, config: PretrainConfig, limit: int) -> tuple[Tensor, Tensor]:
    if not shards:
        raise ValueError(f"probe.{split}_shards is empty: name labelled shards ({split}_shards= of ./run.sh probe)")
    return labelled_images(shards, config.vision, limit)


def _logistic(x: Tensor, labels: Tensor, penalty: float, start: Tensor) -> Tensor:
    """Weights [D + 1, classes], the bias last, of least mean cross entropy + penalty / 2 * |weights|^2, by L-BFGS."""
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


def main(command: ProbeCommandConfig) -> None:
    """Print the accuracies of a run's weights, of the untrained network and of raw pixels."""
    config = _with_shards(from_yaml(Path(command.run) / "config.yaml"), command)
    state, step = load_weights(Path(command.run), command.weights)
    model = Data2Vec(config).to("cuda" if torch.cuda.is_available() else "cpu")  # as drawn at step 0
    untrained = probe(model, config, command.weights)
    getattr(model, command.weights).load_state_dict(state)
    trained = probe(model, config, command.weights)
    print(table({"untrained network": untrained, f"{command.weights} at step {step}": trained}))


def _with_shards(config: PretrainConfig, command: ProbeCommandConfig) -> PretrainConfig:
    """The run's configuration with the shards and k that the command names."""
    train, test = command.train_shards or config.probe.train_shards, command.test_shards or config.probe.test_shards
    return replace(config, probe=replace(config.probe, k=command.k, train_shards=train, test_shards=test))


if __name__ == "__main__":
    run(ProbeCommandConfig, main, sys.argv[1:])
