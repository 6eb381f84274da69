"""Probes: labels read from frozen features by a linear map and by the nearest neighbours, beside a simple baseline."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist

from configs.checks.run import naming
from configs.modality_config import ModalityConfig
from configs.schema import PretrainConfig
from configs.schema_modalities import Modality
from data_shards.batch import SampleBatch
from data_shards.loading.probe_samples import labelled_samples
from models.data2vec import Data2Vec, Weights
from pretrain.engine import distributed
from pretrain.evaluation.baselines import NAMES, baseline
from pretrain.evaluation.classifiers import knn_top1, linear_top1
from pretrain.reporting.metrics import ProbeResult

_NOUNS: dict[Modality, str] = {"vision": "images", "speech": "recordings", "text": "texts"}


def features(model: Data2Vec, batch: SampleBatch, weights: Weights, size: int, device: torch.device) -> Tensor:
    """Features fp32 [N, H] of all samples, on every rank. Each rank computes its share, `size` samples at a time.

    Samples of similar length share a batch. Every rank runs the same number of equal batches, because ZeRO 3 gathers
    parameters in each forward pass; the longest sample fills up the last ones.
    """
    rank, world = distributed.rank(), distributed.world()
    order = batch.lengths.argsort(stable=True)
    steps = -(-len(batch) // (world * size))
    places = torch.arange(steps * size * world).clamp(max=len(batch) - 1).view(steps, size, world)
    parts = [model.features(batch.take(order[rows]).to(device), weights) for rows in places[:, :, rank]]
    local = torch.cat(parts)
    shares = [local]
    if world > 1:
        shares = [torch.empty_like(local) for _ in range(world)]
        dist.all_gather(shares, local)
    by_length = torch.stack(shares, dim=1).flatten(0, 1)[: len(batch)]
    return by_length[order.argsort().to(device)]


def probes(model: Data2Vec, config: PretrainConfig, weights: Weights = "teacher") -> list[ProbeResult]:
    """Probe every modality for which the configuration names labelled samples. Collective: every rank gets the results.

    Raises ValueError if shards are missing or hold no labels.
    """
    results = []
    for modality in config.modalities:
        own = config.for_modality(modality)
        if own.probe.train_shards:
            with naming(config, modality):
                results.append(probe(model, own, weights))
    return results


def probe(model: Data2Vec, config: ModalityConfig, weights: Weights = "teacher") -> ProbeResult:
    """Probe the features of one modality."""
    modality = config.modality
    device = next(model.parameters()).device
    train = labelled_samples(config.probe.train_shards, config, config.probe.train_samples)
    test = labelled_samples(config.probe.test_shards, config, config.probe.test_samples)
    assert train.labels is not None and test.labels is not None
    train_labels, test_labels = train.labels.to(device), test.labels.to(device)
    own = [features(model, batch, weights, config.batch.micro, device) for batch in (train, test)]
    plain = [values.to(device) for values in baseline(train, test)]
    knn, baseline_knn = (knn_top1(a, train_labels, b, test_labels, config.probe.k) for a, b in (own, plain))
    linear = linear_top1(own[0], train_labels, own[1], test_labels)
    baseline_linear = linear_top1(plain[0], train_labels, plain[1], test_labels, each=modality != "text")
    return ProbeResult(modality, knn, linear, baseline_knn, baseline_linear, config.probe.k, len(train), len(test))


def table(results: dict[str, ProbeResult]) -> str:
    """Lines to print: one network per name, then the baseline. All results must be of the same samples."""
    one = next(iter(results.values()))
    rows = [(name, result.knn_top1, result.linear_top1) for name, result in results.items()]
    rows.append((NAMES[one.modality], one.baseline_knn_top1, one.baseline_linear_top1))
    knn_header, width = f"{one.k}-NN", max(len(name) for name, _, _ in rows)
    lines = [f"{name:{width}}  {knn:{max(len(knn_header), 5)}.3f}  {linear:6.3f}" for name, knn, linear in rows]
    noun = _NOUNS[one.modality]
    title = f"top-1 accuracy on {one.test_samples} held-out {noun}, {one.train_samples} labelled {noun} as reference"
    return "\n".join([title, f"{'':{width}}  {knn_header:>5}  linear", *lines])
