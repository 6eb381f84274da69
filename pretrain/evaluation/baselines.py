"""Features that need no network: what a probe of the learned ones stands beside."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from configs.schema_modalities import Modality
from data_shards.batch import UNK, SampleBatch
from models.network import real_tokens
from pretrain.reporting.log_mel import log_mel

NAMES: dict[Modality, str] = {"vision": "raw pixels", "speech": "log-mel statistics", "text": "TF-IDF"}
"""What a table calls them."""

_PIXEL_SIDE = 32  # larger images are averaged down to this side
_TYPES = 8192  # most frequent subwords that TF-IDF counts
_CLIPS = 16  # spectrograms held at once


def baseline(train: SampleBatch, test: SampleBatch) -> tuple[Tensor, Tensor]:
    """float32 [N, D] of both; nothing is learned from `test`."""
    match train.modality:
        case "vision":
            return pixels(train.inputs), pixels(test.inputs)
        case "speech":
            return log_mel_statistics(train), log_mel_statistics(test)
        case "text":
            return tf_idf(train, test)


def pixels(images: Tensor) -> Tensor:
    """uint8 [N, 3, S, S] as fp32 features [N, D], averaged down to at most 32 pixels a side; equal channels once."""
    if images.shape[-1] > _PIXEL_SIDE:
        images = torch.cat([adaptive_avg_pool2d(part.float(), _PIXEL_SIDE) for part in images.split(256)])
    grey = bool((images[:, :1] == images).all())
    return (images[:, :1] if grey else images).flatten(1).float() / 255


def log_mel_statistics(batch: SampleBatch) -> Tensor:
    """float32 [N, 2 * MELS]: mean and standard deviation over the real frames of each band."""
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
    """Counts of the subwords that are most frequent in `train`, weighted by ln((1 + n) / (1 + documents)) + 1, as unit
    vectors [N, D]."""
    totals = torch.bincount(train.inputs.flatten().long())
    totals[: UNK + 1] = 0  # the special ones
    types = totals.argsort(descending=True, stable=True)[: min(_TYPES, int((totals > 0).sum()))]
    seen, new = _counts(train.inputs, types), _counts(test.inputs, types)
    weight = ((1 + len(seen)) / (1 + (seen > 0).sum(0))).log() + 1
    return normalize(seen * weight), normalize(new * weight)


def _counts(ids: Tensor, types: Tensor) -> Tensor:
    """ids int32 [N, T], types int64 [D] -> float32 [N, D]."""
    column = torch.full((max(int(ids.max()), int(types.max())) + 1,), len(types))
    column[types] = torch.arange(len(types))
    counts = torch.zeros(len(ids), len(types) + 1)  # the last column is of the others
    return counts.scatter_add_(1, column[ids.long()], torch.ones(ids.shape))[:, :-1]
