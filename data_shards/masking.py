"""Masks as pure functions of (seed, epoch, sample), and of a sample's length where it has one.

Images: BEiT's blocks (Bao et al. 2021). The rectangles are drawn one after another until `patches` cells are covered,
so the tries cannot be vectorised over an image. What is vectorised is their random numbers, drawn for the whole batch;
the grid itself is one Python integer, a bit per patch, which makes a try about a microsecond.

Speech and text: spans (Baevski et al. 2020), vectorised over the batch; single tokens of text (BERT) are spans of one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain, count
from typing import NamedTuple

import numpy as np

from configs.schema import SpeechMaskConfig, TextConfig, VisionConfig, VisionMaskConfig
from data_shards.batch import UNK
from data_shards.randomness import Epochs, Stream, uniforms

TRIM_GROUP = 16
"""Clips whose masks are trimmed to one count: about what the published code has on a GPU, where it trims."""

_TRIES = 10  # of one rectangle, before the mask is left as it is
_DRAWN_TRIES = 24  # tries whose numbers are drawn at once: nine masks in ten need no more
_PER_TRY = 4  # area, aspect, top, left

Try = list[float]
"""Uniform number of the area, square root of the aspect ratio, uniform numbers of the top and the left edge."""


@lru_cache(maxsize=8)
def _rectangles(grid: int) -> list[list[int]]:
    """Bits of the h x w rectangle in the top left corner, for every h, w <= grid."""
    rows = [sum(1 << (grid * row) for row in range(h)) for h in range(grid + 1)]
    return [[((1 << w) - 1) * rows[h] for w in range(grid + 1)] for h in range(grid + 1)]


def _draw_tries(seed: int, epochs: Epochs, samples: np.ndarray, min_aspect: float, first: int = 0) -> list[list[Try]]:
    """Tries `first .. first + _DRAWN_TRIES` of each sample."""
    draws = uniforms(seed, epochs, samples, Stream.MASK, _DRAWN_TRIES * _PER_TRY, first * _PER_TRY)
    tries = draws.reshape(len(samples), _DRAWN_TRIES, _PER_TRY)
    # The aspect ratio is log-uniform in [m, 1/m]; the sides need its square root.
    tries[:, :, 1] = np.exp((0.5 - tries[:, :, 1]) * math.log(min_aspect))
    return tries.tolist()


def _later_tries(seed: int, epoch: int, sample: int, min_aspect: float) -> Iterator[Try]:
    """The tries of one sample after those drawn with the batch, without end."""
    for first in count(_DRAWN_TRIES, _DRAWN_TRIES):
        yield from _draw_tries(seed, epoch, np.array([sample]), min_aspect, first)[0]


def _block_mask(tries: Iterable[Try], grid: int, config: VisionMaskConfig) -> int:
    """One image's mask, bit `row * grid + column`."""
    rectangles = _rectangles(grid)
    mask = covered = failed = 0
    cap = min(config.patches, config.max_block)
    for u_area, aspect, u_top, u_left in tries:
        # Once `cap` is below `min_block` the interval is reversed, as published: the last rectangles are small.
        side = math.sqrt(config.min_block + u_area * (cap - config.min_block))
        h, w = round(side * aspect), round(side / aspect)
        failed += 1
        if h < grid and w < grid:
            block = rectangles[h][w] << (int(u_top * (grid - h + 1)) * grid + int(u_left * (grid - w + 1)))
            new = (block & ~mask).bit_count()
            if 0 < new <= cap:
                mask |= block
                covered += new
                cap = min(config.patches - covered, config.max_block)
                failed = 0
        if covered == config.patches or failed == _TRIES:
            break
    return mask


def block_masks(seed: int, epochs: Epochs, samples: np.ndarray, vision: VisionConfig) -> np.ndarray:
    """Masks of the samples, bool [B, T]: at most `vision.mask.patches` True each, T = vision.tokens.

    `vision` has passed `configs.checks.check_samples`.
    """
    config, grid = vision.mask, vision.grid
    drawn, each = _draw_tries(seed, epochs, samples, config.min_aspect), np.broadcast_to(epochs, len(samples))
    masks = (
        _block_mask(chain(tries, _later_tries(seed, epoch, sample, config.min_aspect)), grid, config)
        for tries, epoch, sample in zip(drawn, each.tolist(), samples.tolist(), strict=True)
    )
    size = -(-vision.tokens // 8)
    packed = np.frombuffer(b"".join(mask.to_bytes(size, "little") for mask in masks), np.uint8)
    bits = np.unpackbits(packed.reshape(len(samples), size), axis=1, bitorder="little", count=vision.tokens)
    return bits.view(bool)


def _chosen(draws: np.ndarray, count: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """`count` [B] positions of the `allowed`, or all where there are fewer, uniformly: bool [B, T]; draws [B, T]."""
    draws = np.where(allowed, draws, 1.0)
    last = np.clip(count, 1, np.maximum(allowed.sum(1), 1)) - 1
    return allowed & (draws <= np.take_along_axis(np.sort(draws, axis=1), last[:, None], axis=1))


def _covered(starts: np.ndarray, length: np.ndarray) -> np.ndarray:
    """What spans of `length` [B] positions cover that begin at `starts`; both bool [B, T]."""
    change = starts.astype(np.int32)
    rows, columns = np.nonzero(starts)
    ends = columns + length[rows]
    inside = ends < starts.shape[1]
    change[rows[inside], ends[inside]] -= 1
    return np.cumsum(change, axis=1) > 0


def span_masks(
    seed: int, epochs: Epochs, samples: np.ndarray, frames: np.ndarray, config: SpeechMaskConfig
) -> np.ndarray:
    """Masks of the clips of `frames` [B >= 2] real frames: bool [B, T], T the most of them.

    A clip of T frames gets floor(start * T + u) distinct spans, u uniform in [0, 1), at least one, all of them within
    its first T - 1 frames, as published. So some frame is never masked. Where a span would not fit it has T - 1 frames.
    """
    assert frames.min() >= 2
    draws = uniforms(seed, epochs, samples, Stream.MASK, 1 + int(frames.max()))
    length = np.minimum(config.length, frames - 1)
    may_start = np.arange(draws.shape[1] - 1) < (frames - length)[:, None]
    count = (config.start * frames + draws[:, 0]).astype(np.int64)
    return _covered(_chosen(draws[:, 1:], count, may_start), length)


def trimmed(seed: int, epochs: Epochs, samples: np.ndarray, masks: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The masks bool [B, T] with at most `count` [B] True, the others dropped at random."""
    draws = uniforms(seed, epochs, samples, Stream.TRIM, masks.shape[1])
    return _chosen(draws, count, masks)


class Neighbours(NamedTuple):
    """The clips of about the same length that a micro-batch's clips are trimmed with, in whole groups."""

    samples: np.ndarray
    """int64 [n], group after group of TRIM_GROUP; the last may be smaller."""
    epochs: np.ndarray
    """int64 [n], of each of them."""
    frames: np.ndarray
    """int64 [n], as the index has them; those of fewer than 2 do not count."""
    group: np.ndarray
    """int64 [B], which of the groups each clip of the micro-batch is in."""


def fewest_masked(seed: int, neighbours: Neighbours, config: SpeechMaskConfig) -> np.ndarray:
    """int64 [B]: the fewest masked frames of any clip in each clip's group."""
    masks = span_masks(seed, neighbours.epochs, neighbours.samples, np.maximum(neighbours.frames, 2), config)
    counts = np.where(neighbours.frames >= 2, masks.sum(1), masks.shape[1])
    return np.minimum.reduceat(counts, np.arange(0, len(counts), TRIM_GROUP))[neighbours.group]


def token_masks(
    seed: int, epochs: Epochs, samples: np.ndarray, tokens: np.ndarray, lengths: np.ndarray, text: TextConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Masks bool [B, T] of texts int32 [B, T] of `lengths` [B] tokens, and what the student sees of them, int32 [B, T].

    A text of L tokens that may be masked gets floor(fraction / length * L + u) distinct spans, u uniform in [0, 1), at
    least one; they are clipped at the end and pass over what may not be masked. A text has two tokens or more, and one
    that may be masked.
    """
    config, size = text.mask, tokens.shape[1]
    real = np.arange(size) < lengths[:, None]
    allowed = real if config.specials else real & (tokens >= UNK)
    assert lengths.min() >= 2 and allowed.any(1).all()
    length = 1 if config.kind == "tokens" else config.length
    draws = uniforms(seed, epochs, samples, Stream.MASK, 1 + size)
    count = (config.fraction / length * allowed.sum(1) + draws[:, 0]).astype(np.int64)
    chosen = allowed & _covered(_chosen(draws[:, 1:], count, allowed), np.full(len(samples), length))
    whole = chosen.sum(1) == lengths
    chosen[whole, lengths[whole] - 1] = False  # something is left to see
    return _corrupted(seed, epochs, samples, tokens, chosen, text)


def _corrupted(
    seed: int, epochs: Epochs, samples: np.ndarray, tokens: np.ndarray, chosen: np.ndarray, text: TextConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Which of the `chosen` tokens become <mask>, at least one, and the texts with them and the random tokens."""
    mask_id, config = text.vocab_size - 1, text.mask
    if config.kind == "spans":
        return chosen, np.where(chosen, np.int32(mask_id), tokens)
    draws = uniforms(seed, epochs, samples, Stream.REPLACE, 2 * tokens.shape[1]).reshape(*tokens.shape, 2)
    fate = np.where(chosen, draws[:, :, 0], -1.0)
    masked = fate >= np.minimum(config.random + config.keep, fate.max(1, keepdims=True))
    ordinary = (UNK + 1 + draws[:, :, 1] * (mask_id - UNK - 1)).astype(np.int32)
    seen = np.where(chosen & (fate < config.random), ordinary, tokens)
    return masked, np.where(masked, np.int32(mask_id), seen)
