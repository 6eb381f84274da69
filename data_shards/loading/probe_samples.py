"""Labelled samples for probes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from configs.modality_config import ModalityConfig
from configs.schema_training import Patterns
from data_shards.batch import LabelledBatch
from data_shards.kinds import kind_of
from data_shards.loading.labels import read_label
from data_shards.shards.bad_sample import BadSample
from data_shards.shards.held_out import spread
from data_shards.shards.index import load_index
from data_shards.shards.reader import Reader

log = logging.getLogger(__name__)


def labelled_samples(
    shards: Patterns, config: ModalityConfig, limit: int, reached: Callable[[float], None] = lambda share: None
) -> LabelledBatch:
    """Return at most `limit` whole samples with their labels, evenly spread over the shards.

    reached: called in front of each sample with the share of the samples that are read.
    Samples are padded to the longest. Every process that calls this decodes all of them: in a run, each rank.
    Damaged samples are left out with a warning. Raises ValueError if a sample has no label, if none is readable, if the
    classes are not those of `probe.train_shards`, or if texts have another tokenizer than those of `data.shards`.
    """
    index = load_index(replace(config.data, shards=shards, weights=None))
    kind = kind_of(config.modality)
    kind.check_index(config, index)
    _check_classes(config, shards, index.classes)
    chosen = spread(index, limit)
    sparse = 8 * len(chosen) < index.samples  # then most of a remote shard's chunk would be fetched for nothing
    reader, samples = Reader(index, 1 if sparse else None, config.data.max_sample_mb), kind.samples(config)
    ids, loaded, labels = [], [], []
    for i, sample in enumerate(chosen):
        reached(i / len(chosen))
        try:
            members = reader.read(sample).members
            loaded.append(samples.load_whole(members))
        except BadSample as error:
            log.warning("bad sample, left out of the probe: %s", reader.report(sample, error))
            continue
        try:
            labels.append(read_label(members))
        except BadSample as error:
            raise ValueError(f"{shards!r}: {reader.report(sample, error)}; give shards with labels") from None
        ids.append(sample)
    reader.close()
    if not loaded:
        raise ValueError(f"{shards!r}: none of {len(chosen)} samples is readable")
    return samples.unmasked(np.array(ids), loaded).with_labels(labels)


def _check_classes(config: ModalityConfig, shards: Patterns, classes: tuple[str, ...]) -> None:
    """Raise ValueError if class numbers mean other names than in `probe.train_shards`. Shards may name no classes."""
    train = config.probe.train_shards
    known = load_index(replace(config.data, shards=train, weights=None)).classes if train and train != shards else ()
    for number, (ours, theirs) in enumerate(zip(known, classes, strict=False)):
        if ours != theirs:
            raise ValueError(
                f"class {number} is {ours!r} in probe.train_shards={train!r} and {theirs!r} in {shards!r}: build both "
                f"from the same class folders"
            )
