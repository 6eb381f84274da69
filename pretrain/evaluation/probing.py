"""Probes: labels read from frozen features by a linear map and by the nearest neighbours, beside a simple baseline."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch import distributed as dist

from configs.checks.run import naming
from configs.modality_config import ModalityConfig
from configs.schema import PretrainConfig
from configs.schema_modalities import Modality
from data_shards.batch import LabelledBatch, SampleBatch
from data_shards.loading.probe_samples import labelled_samples
from data_shards.progress import Progress
from data_shards.shards.index import load_index
from models.data2vec import Data2Vec, Weights
from pretrain.engine import distributed
from pretrain.evaluation.baselines import NAMES, baseline
from pretrain.evaluation.classifiers import knn_top1, linear_top1
from pretrain.reporting.metrics import ProbeResult

log = logging.getLogger(__name__)

FEATURE_BATCH = 256  # most samples in a forward pass
FEATURE_TOKENS = 8192  # most tokens in it: speech's feature encoder holds 300 times their bytes
_NAMED = 5  # classes that a warning names
_LINE_S = 10.0  # seconds between two lines of progress in a log

_NOUNS: dict[Modality, str] = {"vision": "images", "speech": "recordings", "text": "texts"}


Reached = Callable[[float], None]
"""Called with the share of a work that is done."""


def features(
    model: Data2Vec, batch: SampleBatch, weights: Weights, device: torch.device, reached: Reached = lambda share: None
) -> Tensor:
    """Features fp32 [N, H] of all samples, on every rank. Each rank computes its share, a batch at a time.

    Samples of similar length share a batch. Its size follows from their number and length, so that a pass fits where
    training does. Every rank runs the same number of equal batches, because ZeRO 3 gathers parameters in each forward
    pass; the longest sample fills up the last ones.
    """
    rank, world = distributed.rank(), distributed.world()
    order = batch.lengths.argsort(stable=True)
    size = max(1, min(FEATURE_BATCH, FEATURE_TOKENS // batch.tokens, -(-len(batch) // world)))
    steps = -(-len(batch) // (world * size))
    places = torch.arange(steps * size * world).clamp(max=len(batch) - 1).view(steps, size, world)
    parts = []
    for step, rows in enumerate(places[:, :, rank]):
        reached(step / steps)
        parts.append(model.features(batch.take(order[rows]).to(device), weights))
    local = torch.cat(parts)
    shares = [local]
    if world > 1:
        shares = [torch.empty_like(local) for _ in range(world)]
        dist.all_gather(shares, local)
    by_length = torch.stack(shares, dim=1).flatten(0, 1)[: len(batch)]
    return by_length[order.argsort().to(device)]


def probes(
    model: Data2Vec, config: PretrainConfig, weights: Weights = "teacher", alive: Callable[[], None] = lambda: None
) -> list[ProbeResult]:
    """Probe every modality for which the configuration names labelled samples. Collective: every rank gets the results.

    alive: called whenever the probe gets on. Raises ValueError if shards are missing or hold no labels.
    """
    results, shown = [], config.log.progress and distributed.rank() == 0
    for modality in config.modalities:
        own = config.for_modality(modality)
        if own.probe.train_shards:
            with naming(config, modality):
                results.append(probe(model, own, weights, f"probing {modality}", shown, alive))
    return results


def probe(
    model: Data2Vec,
    config: ModalityConfig,
    weights: Weights = "teacher",
    title: str = "probing",
    shown: bool = False,
    alive: Callable[[], None] = lambda: None,
) -> ProbeResult:
    """Probe the features of one modality. shown: show the progress under `title`. alive: called when it gets on."""
    with Progress(100, "%", _line, title=title, every_s=_LINE_S, shown=shown) as progress:

        def part(first: int, last: int, facts: str) -> Reached:
            """The part of the work from one percentage to another."""

            def reached(share: float) -> None:
                alive()
                progress.update(first + int(share * (last - first)), facts)

            return reached

        train, test = _read(config, part)
        device = next(model.parameters()).device
        own = (
            features(model, train, weights, device, part(40, 70, "features")),
            features(model, test, weights, device, part(70, 85, "features")),
        )
        result = _classify(config, train, test, own, part(85, 100, "classifiers"))
        progress.update(100, "classifiers")
    return result


def _read(config: ModalityConfig, part: Callable[[int, int, str], Reached]) -> tuple[LabelledBatch, LabelledBatch]:
    """Return reference and held-out samples."""
    options = config.probe
    train = labelled_samples(options.train_shards, config, options.train_samples, part(0, 25, "reading"))
    if distributed.rank() == 0:
        _warn_of_lone_classes(config, train)
    return train, labelled_samples(options.test_shards, config, options.test_samples, part(25, 40, "reading"))


def _warn_of_lone_classes(config: ModalityConfig, train: LabelledBatch) -> None:
    """Warn of classes that have a single reference sample, by name if the shards name them."""
    shards, lone = config.probe.train_shards, lone_classes(train)
    if lone:
        names = load_index(replace(config.data, shards=shards, weights=None)).classes
        some = ", ".join(names[number] if number < len(names) else str(number) for number in lone[:_NAMED])
        _warn_once(
            f"probe.train_shards: {len(lone)} classes have one sample ({some}{', ...' * (len(lone) > _NAMED)}), which "
            f"is too few: add samples to them, or raise probe.train_samples if it leaves some out"
        )


def lone_classes(samples: LabelledBatch) -> list[int]:
    """Return the numbers of the classes of which there is one sample."""
    assert samples.labels is not None
    classes, counts = torch.unique(samples.labels, return_counts=True)
    return classes[counts == 1].tolist()


@functools.cache
def _warn_once(text: str) -> None:
    """Warn of the data, and not again at the next probe of the same run."""
    log.warning("%s", text)


def _classify(
    config: ModalityConfig, train: LabelledBatch, test: LabelledBatch, own: tuple[Tensor, Tensor], reached: Reached
) -> ProbeResult:
    """Return the accuracies of the features and of the baseline. own: the features of `train` and of `test`."""
    modality, k, device = config.modality, config.probe.k, own[0].device
    assert train.labels is not None and test.labels is not None
    train_labels, test_labels = train.labels.to(device), test.labels.to(device)
    reached(0)
    plain = [values.to(device) for values in baseline(train, test)]
    reached(0.2)
    knn, baseline_knn = (knn_top1(a, train_labels, b, test_labels, k) for a, b in (own, plain))
    reached(0.4)
    linear = linear_top1(own[0], train_labels, own[1], test_labels)
    reached(0.7)
    baseline_linear = linear_top1(plain[0], train_labels, plain[1], test_labels, each=modality != "text")
    return ProbeResult(modality, knn, linear, baseline_knn, baseline_linear, k, len(train), len(test))


def _line(progress: Progress) -> str:
    return f"{progress.title}: {progress.done} %, {progress.facts}"


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
