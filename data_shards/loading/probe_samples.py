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
_SHOWN = 10  # classes in an error


def labelled_samples(
    shards: Patterns, config: ModalityConfig, limit: int, reached: Callable[[float], None] = lambda share: None
) -> LabelledBatch:
    """Return at most `limit` whole samples with their labels, evenly spread over the shards.

    reached: called in front of each sample with the share of the samples that are read.
    Samples are padded to the longest. Every process that calls this decodes all of them: in a run, each rank.
    Damaged samples are left out with a warning. Labels are numbers of the classes of `probe.train_shards`. Raises
    ValueError if a sample has no label, if none is readable, if a class is not among those, or if texts have another
    tokenizer than those of `data.shards`.
    """
    index = load_index(replace(config.data, shards=shards, weights=None))
    kind = kind_of(config.modality)
    kind.check_index(config, index)
    numbers = _numbers(config, shards, index.classes)
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
            label = read_label(members)
            labels.append(numbers.get(label, label))
        except BadSample as error:
            raise ValueError(f"{shards!r}: {reader.report(sample, error)}; give shards with labels") from None
        ids.append(sample)
    reader.close()
    if not loaded:
        raise ValueError(f"{shards!r}: none of {len(chosen)} samples is readable")
    return samples.unmasked(np.array(ids), loaded).with_labels(labels)


def _numbers(config: ModalityConfig, shards: Patterns, classes: tuple[str, ...]) -> dict[int, int]:
    """Return the number in `probe.train_shards` of each class that both name; nothing if one of them names none.

    Splits of a table that was cut by chance need not hold the same classes. Raises ValueError for a class that
    `probe.train_shards` does not name.
    """
    train = config.probe.train_shards
    known = load_index(replace(config.data, shards=train, weights=None)).classes if train and train != shards else ()
    if not known:
        return {}
    if strange := [name for name in classes if name not in known]:
        named = ", ".join(map(repr, known[:_SHOWN])) + ", ..." * (len(known) > _SHOWN)
        raise ValueError(
            f"class {strange[0]!r} of {shards!r} is none of those in probe.train_shards={train!r} ({named}): "
            "build both with the same classes"
        )
    return {number: known.index(name) for number, name in enumerate(classes)}
