"""Span masks over the frames of clips (Baevski et al. 2020), vectorised over the batch, and masks trimmed to one count.

A mask is a pure function of (seed, epoch, sample, length).
"""

from __future__ import annotations

import numpy as np

from configs.schema_modalities import SpeechMaskConfig
from data_shards.randomness import Epochs, Stream, uniforms
from data_shards.request import TRIM_GROUP, Neighbours
from data_shards.spans import choose_positions, cover_spans


def span_masks(
    seed: int, epochs: Epochs, samples: np.ndarray, frames: np.ndarray, config: SpeechMaskConfig
) -> np.ndarray:
    """Return the masks of clips of `frames` [B] real frames, 2 or more each: bool [B, T], T the largest number.

    A clip of T frames gets floor(start * T + u) distinct spans, u uniform in [0, 1), at least one, all of them within
    its first T - 1 frames, as published. So some frame is never masked. A span that would not fit has T - 1 frames.
    """
    assert frames.min() >= 2
    draws = uniforms(seed, epochs, samples, Stream.MASK, 1 + int(frames.max()))
    length = np.minimum(config.length, frames - 1)
    may_start = np.arange(draws.shape[1] - 1) < (frames - length)[:, None]
    count = (config.start * frames + draws[:, 0]).astype(np.int64)
    return cover_spans(choose_positions(draws[:, 1:], count, may_start), length)


def trimmed(seed: int, epochs: Epochs, samples: np.ndarray, masks: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return the masks bool [B, T] with at most `count` [B] True; random others are dropped."""
    draws = uniforms(seed, epochs, samples, Stream.TRIM, masks.shape[1])
    return choose_positions(draws, count, masks)


def fewest_masked(seed: int, neighbours: Neighbours, config: SpeechMaskConfig) -> np.ndarray:
    """Return int64 [B]: the fewest masked frames of any clip in each clip's group."""
    masks = span_masks(seed, neighbours.epochs, neighbours.samples, np.maximum(neighbours.frames, 2), config)
    counts = np.where(neighbours.frames >= 2, masks.sum(1), masks.shape[1])
    return np.minimum.reduceat(counts, np.arange(0, len(counts), TRIM_GROUP))[neighbours.group]


FEWEST_FRAMES = 2
"""Frames of the shortest usable clip: one to mask, one to see."""
