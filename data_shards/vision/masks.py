"""Masks of images as pure functions of (seed, epoch, sample): BEiT's blocks (Bao et al. 2021).

The rectangles are drawn one after another until `patches` cells are covered, so the tries cannot be vectorised over an
image. Only their random numbers are: they are drawn for the whole batch. The grid itself is one Python integer, a bit
per patch, so that a try takes about a microsecond.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain, count

import numpy as np

from configs.schema_modalities import VisionConfig, VisionMaskConfig
from data_shards.randomness import Epochs, Stream, uniforms

_TRIES = 10  # for one rectangle; if all fail, the mask stays as it is
_DRAWN_TRIES = 24  # tries whose numbers are drawn at once: nine masks in ten need no more
_PER_TRY = 4  # area, aspect, top, left

Try = list[float]
"""Uniform number of the area, square root of the aspect ratio, uniform numbers of the top and the left edge."""


@lru_cache(maxsize=8)
def _rectangles(grid: int) -> list[list[int]]:
    """Return the bits of the h x w rectangle in the top left corner, for every h, w <= grid."""
    rows = [sum(1 << (grid * row) for row in range(h)) for h in range(grid + 1)]
    return [[((1 << w) - 1) * rows[h] for w in range(grid + 1)] for h in range(grid + 1)]


def _draw_tries(seed: int, epochs: Epochs, samples: np.ndarray, min_aspect: float, first: int = 0) -> list[list[Try]]:
    """Draw tries `first .. first + _DRAWN_TRIES` of each sample."""
    draws = uniforms(seed, epochs, samples, Stream.MASK, _DRAWN_TRIES * _PER_TRY, first * _PER_TRY)
    tries = draws.reshape(len(samples), _DRAWN_TRIES, _PER_TRY)
    # The aspect ratio is log-uniform in [m, 1/m]; the sides need its square root.
    tries[:, :, 1] = np.exp((0.5 - tries[:, :, 1]) * math.log(min_aspect))
    return tries.tolist()


def _later_tries(seed: int, epoch: int, sample: int, min_aspect: float) -> Iterator[Try]:
    """Yield one sample's tries after the tries that were drawn with the batch, without end."""
    for first in count(_DRAWN_TRIES, _DRAWN_TRIES):
        yield from _draw_tries(seed, epoch, np.array([sample]), min_aspect, first)[0]


def _block_mask(tries: Iterable[Try], grid: int, config: VisionMaskConfig) -> int:
    """Return one image's mask, bit `row * grid + column`."""
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
    """Return the masks of the samples, bool [B, T]: at most `vision.mask.patches` True each, T = vision.tokens.

    `vision` has passed `configs.checks.run.check_samples`.
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
