"""How much of the labels a linear map or the neighbours can read from frozen features, beside a simple baseline.

python -m pretrain.probe run=DIR [weights=teacher|student] [modality=...] [train_shards=... test_shards=... k=...]
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch import distributed as dist

from configs.checks import naming
from configs.command import run
from configs.compose import from_yaml
from configs.modality_config import ModalityConfig
from configs.schema import PretrainConfig
from configs.schema_commands import ProbeCommandConfig
from configs.schema_modalities import Modality
from data_shards.batch import SampleBatch
from data_shards.loading.labelled import labelled_samples
from models.data2vec import Data2Vec, Weights
from pretrain.checkpoints.reading import load_weights
from pretrain.engine import distributed
from pretrain.evaluation.baselines import NAMES, baseline
from pretrain.evaluation.classifiers import knn_top1, linear_top1
from pretrain.reporting.metrics import ProbeResult

_NOUNS: dict[Modality, str] = {"vision": "images", "speech": "recordings", "text": "texts"}


def features(model: Data2Vec, batch: SampleBatch, weights: Weights, size: int, device: torch.device) -> Tensor:
    """Features fp32 [N, H] of all samples on every rank; each rank computes its share, `size` samples at a time.

    Samples of like length go together. Every rank runs the same number of equal batches, repeating the longest sample
    at the end, since ZeRO 3 gathers parameters in each forward pass.
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
    """Probe every modality for which the configuration names labelled samples; every rank calls it and gets the same.

    Raises ValueError where shards are missing or hold no labels.
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
    """Lines to print: one network per name, the baseline last. All results are of the same samples."""
    one = next(iter(results.values()))
    rows = [(name, result.knn_top1, result.linear_top1) for name, result in results.items()]
    rows.append((NAMES[one.modality], one.baseline_knn_top1, one.baseline_linear_top1))
    knn_header, width = f"{one.k}-NN", max(len(name) for name, _, _ in rows)
    lines = [f"{name:{width}}  {knn:{max(len(knn_header), 5)}.3f}  {linear:6.3f}" for name, knn, linear in rows]
    noun = _NOUNS[one.modality]
    title = f"top-1 accuracy on {one.test_samples} held-out {noun}, {one.train_samples} labelled {noun} as reference"
    return "\n".join([title, f"{'':{width}}  {knn_header:>5}  linear", *lines])


def main(command: ProbeCommandConfig) -> None:
    """Print, for each modality, the accuracies of a run's weights, of the untrained network and of the baseline."""
    config = from_yaml(Path(command.run) / "config.yaml")
    probed = _probed(config, command)
    state, step = load_weights(Path(command.run), command.weights)
    model = Data2Vec(config).to("cuda" if torch.cuda.is_available() else "cpu")  # as drawn at step 0
    untrained = [probe(model, own, command.weights) for own in probed]
    _load(model, state)
    trained = [probe(model, own, command.weights) for own in probed]
    for before, after in zip(untrained, trained, strict=True):
        print(table({"untrained network": before, f"{command.weights} at step {step}": after}))


@torch.no_grad()
def _load(model: Data2Vec, state: dict[str, Tensor]) -> None:
    """Overwrite both networks: one of them is probed."""
    model.student.load_state_dict(state)
    for name, _, teacher in model.tracked():
        teacher.copy_(state[name])


def _probed(config: PretrainConfig, command: ProbeCommandConfig) -> list[ModalityConfig]:
    """The run's modalities that are probed, with the shards and k that the command names.

    Raises ValueError where it is not clear which, or no labelled shards are named.
    """
    named = command.train_shards or command.test_shards
    asked = [command.modality] if command.modality else config.modalities
    if command.modality and command.modality not in config.modalities:
        raise ValueError(f"modality={command.modality}: the run is of {', '.join(config.modalities)}")
    if named and len(asked) > 1:
        raise ValueError(f"{named}: of which modality? Add modality= and one of {', '.join(config.modalities)}")
    probed = [_with_shards(config.for_modality(modality), command) for modality in asked]
    probed = [own for own in probed if own.probe.train_shards and own.probe.test_shards]
    if not probed:
        raise ValueError("the run names no labelled shards: add train_shards=PATTERN test_shards=PATTERN")
    return probed


def _with_shards(config: ModalityConfig, command: ProbeCommandConfig) -> ModalityConfig:
    train, test = command.train_shards or config.probe.train_shards, command.test_shards or config.probe.test_shards
    return replace(config, probe=replace(config.probe, k=command.k, train_shards=train, test_shards=test))


if __name__ == "__main__":
    run(ProbeCommandConfig, main, sys.argv[1:])
