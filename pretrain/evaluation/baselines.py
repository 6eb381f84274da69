"""Baselines: features that need no network, with which a probe compares the learned ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from configs.schema_modalities import Modality
from data_shards.batch import UNK, SampleBatch
from data_shards.showing.log_mel import log_mel
from models.layers.masked import real_tokens

NAMES: dict[Modality, str] = {"vision": "raw pixels", "speech": "log-mel statistics", "text": "TF-IDF"}
"""Names in tables."""

_PIXEL_SIDE = 32  # larger images are averaged down to this side
_TYPES = 8192  # number of most frequent subwords that TF-IDF counts
_CLIPS = 16  # spectrograms in memory at a time


def baseline(train: SampleBatch, test: SampleBatch) -> tuple[Tensor, Tensor]:
    """Features float32 [N, D] of `train` and of `test`. Nothing is learned from `test`.

    Raises ValueError for a modality without a baseline.
    """
    match train.modality:
        case "vision":
            return pixels(train.inputs), pixels(test.inputs)
        case "speech":
            return log_mel_statistics(train), log_mel_statistics(test)
        case "text":
            return tf_idf(train, test)
        case _:
            raise ValueError(f"no baseline for modality={train.modality}: leave probe.train_shards empty")


def pixels(images: Tensor) -> Tensor:
    """Features fp32 [N, D] of images uint8 [N, 3, S, S].

    Images are averaged down to at most 32 pixels a side. If all channels are equal, only one is kept.
    """
    if images.shape[-1] > _PIXEL_SIDE:
        images = torch.cat([adaptive_avg_pool2d(part.float(), _PIXEL_SIDE) for part in images.split(256)])
    grey = bool((images[:, :1] == images).all())
    return (images[:, :1] if grey else images).flatten(1).float() / 255


def log_mel_statistics(batch: SampleBatch) -> Tensor:
    """Features float32 [N, 2 * MELS]: mean and standard deviation of each band over the frames without padding."""
    chunks = torch.arange(len(batch)).split(_CLIPS)
    return torch.cat([_statistics(batch.take(rows)) for rows in chunks])


def _statistics(batch: SampleBatch) -> Tensor:
    bands = log_mel(batch)
    real = real_tokens(batch.lengths, bands.shape[1])[..., None]
    count = batch.lengths[:, None]
    mean = (bands * real).sum(1) / count
    variance = ((bands - mean[:, None]).square() * real).sum(1) / count
    return torch.cat([mean, variance.sqrt()], dim=1)


def tf_idf(train: SampleBatch, test: SampleBatch) -> tuple[Tensor, Tensor]:
    """Features [N, D] of both batches: unit vectors of weighted counts of the most frequent subwords in `train`.

    The weight is ln((1 + n) / (1 + documents)) + 1, for n texts of which `documents` contain the subword.
    """
    totals = torch.bincount(train.inputs.flatten().long())
    totals[: UNK + 1] = 0  # special tokens
    types = totals.argsort(descending=True, stable=True)[: min(_TYPES, int((totals > 0).sum()))]
    seen, new = _counts(train.inputs, types), _counts(test.inputs, types)
    weight = ((1 + len(seen)) / (1 + (seen > 0).sum(0))).log() + 1
    return normalize(seen * weight), normalize(new * weight)


def _counts(ids: Tensor, types: Tensor) -> Tensor:
    """Counts float32 [N, D] of the `types`, int64 [D], in `ids`, int32 [N, T]."""
    column = torch.full((max(int(ids.max()), int(types.max())) + 1,), len(types))
    column[types] = torch.arange(len(types))
    counts = torch.zeros(len(ids), len(types) + 1)  # the last column counts all other types
    return counts.scatter_add_(1, column[ids.long()], torch.ones(ids.shape))[:, :-1]
