"""Labelled samples for probes."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from configs.modality_config import ModalityConfig
from configs.schema_training import Patterns
from data_shards.batch import MaskedBatch
from data_shards.loading.microbatch import sample_kind
from data_shards.shards.bad_sample import BadSample
from data_shards.shards.index import load_index
from data_shards.shards.reader import Reader
from data_shards.shards.tar import Members
from data_shards.text.stored_tokenizer import check_tokenizer

log = logging.getLogger(__name__)


def _label(members: Members) -> int:
    try:
        return int(members["cls"])
    except (KeyError, ValueError):
        raise ValueError("no class number (member .cls)") from None


def labelled_samples(shards: Patterns, config: ModalityConfig, limit: int) -> tuple[MaskedBatch, Tensor]:
    """At most `limit` samples, whole and without masks, and their labels int64 [N], evenly spread over the shards.

    Samples are padded to the longest. Every process that calls this decodes all of them: in a run, each rank.
    Unreadable samples are left out with a warning. Raises ValueError where one has no label, or none is readable,
    or where texts have another tokenizer than those of `data.shards`.
    """
    index = load_index(replace(config.data, shards=shards, weights=None))
    check_tokenizer(config, index)
    count = min(limit, index.samples)
    sparse = 8 * count < index.samples  # then whole chunks of remote shards are mostly fetched for nothing
    reader, kind = Reader(index, 1 if sparse else None, config.data.max_sample_mb), sample_kind(config)
    ids, loaded, labels = [], [], []
    for i in range(count):
        sample = i * index.samples // count
        try:
            members = reader.read(sample).members
            loaded.append(kind.load_whole(members))
        except BadSample as error:
            log.warning("left out: %s", reader.report(sample, error))
            continue
        try:
            labels.append(_label(members))
        except ValueError as error:
            unlabelled = reader.report(sample, BadSample("member", str(error)))
            raise ValueError(f"{shards!r}: {unlabelled}; give shards with labels") from None
        ids.append(sample)
    reader.close()
    if not loaded:
        raise ValueError(f"{shards!r}: none of {count} samples is readable")
    return kind.unmasked(np.array(ids), loaded), torch.tensor(labels)
