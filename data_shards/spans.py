"""Random positions, and spans of positions, in a batch of B samples of T positions. The masks are built from them.

The masks of data2vec 2.0 are here whole, since they are alike in all modalities: M of each sample, each of an exact
number of positions. Source: fairseq examples/data2vec (config/v2, and `compute_block_mask_1d` and `_2d`).
"""

from __future__ import annotations

import numpy as np

from configs.published import MultiMasks
from data_shards.randomness import Epochs, Stream, drawn, in_unit, keys


def choose_positions(draws: np.ndarray, count: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Choose `count` int64 [B] positions per sample, uniformly among the `allowed` bool [B, T]: bool [B, T].

    A sample with fewer allowed positions gets all of them. draws: uniform numbers [B, T]; the smallest are chosen.
    """
    draws = np.where(allowed, draws, 1.0)
    last = np.clip(count, 1, np.maximum(allowed.sum(1), 1)) - 1
    return allowed & (draws <= np.take_along_axis(np.sort(draws, axis=1), last[:, None], axis=1))


def cover_spans(starts: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Mark the positions covered by spans of `length` int64 [B] that begin at `starts` bool [B, T]: bool [B, T].

    Spans may overlap, and end at T.
    """
    change = starts.astype(np.int32)
    rows, columns = np.nonzero(starts)
    ends = columns + length[rows]
    inside = ends < starts.shape[1]
    change[rows[inside], ends[inside]] -= 1
    return np.cumsum(change, axis=1) > 0


_CENTRES = 2**32
"""First of a mask's numbers that place its blocks. Those in front order its positions, however many there are."""


def several_masks(
    seed: int, epochs: Epochs, samples: np.ndarray, lengths: np.ndarray, config: MultiMasks, grid: int = 0
) -> np.ndarray:
    """Return M masks of each sample, bool [B, M, T], T the largest of `lengths` [B].

    Blocks of text are single positions. grid: patches a side of images: what the student sees is squares then; 0: what
    it does not see is runs of positions. A mask is a pure function of (seed, epoch, sample, its number, length).
    """
    m, size, grow = config.count, int(lengths.max()), config.block > 1
    rows = np.repeat(lengths, m)
    key = keys(seed, epochs, samples, Stream.MASK, m).reshape(-1)
    bits = (drawn(key, size) >> np.uint64(33)).astype(np.uint32)  # 31 bits a position
    hides = config.covers_hidden(bool(grid))
    hidden = {n: config.hidden(n, bool(grid)) for n in np.unique(lengths).tolist()}
    counts = {n: count if hides else n - count for n, count in hidden.items()}
    count = np.array([counts[n] for n in rows.tolist()])
    if grow:
        fraction = (config.fraction if hides else 1 - config.fraction) + config.adjust
        area = config.block**2 if grid else config.block
        centres = np.maximum(1, (rows * fraction / area + 1e-9).astype(np.int64))
        blocks = centred_blocks(key, size, rows, centres, config.block, grid)
        bits |= (~blocks).astype(np.uint32) << np.uint32(31)  # positions outside of blocks come behind those inside
    chosen = exactly(bits, count, rows)
    inside = np.arange(size) < rows[:, None]
    return (chosen if hides else inside & ~chosen).reshape(len(samples), m, size)


def exactly(order: np.ndarray, count: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Choose `count` [n] of the first `lengths` [n] positions, those first in `order` uint32 [n, T]: bool [n, T].

    Equal numbers are in the order of their positions.
    """
    size = order.shape[1]
    unique = order.astype(np.uint64) << np.uint64(32) | np.arange(size, dtype=np.uint64)
    unique[np.arange(size) >= lengths[:, None]] = np.iinfo(np.uint64).max
    last = np.empty(len(unique), np.uint64)
    for number in np.unique(count).tolist():
        rows = count == number
        last[rows] = np.partition(unique[rows], number - 1, axis=1)[:, number - 1]
    return unique <= last[:, None]


def centred_blocks(
    key: np.ndarray, size: int, lengths: np.ndarray, centres: np.ndarray, block: int, grid: int
) -> np.ndarray:
    """Cover positions by `centres` [n] blocks around centres drawn with replacement, cut at the edges: bool [n, T].

    key: uint64 [n]. lengths: int64 [n], the positions of each row that may be centres. grid: as for `several_masks`.
    """
    most = int(centres.max())
    places = (in_unit(drawn(key, most, first=_CENTRES)) * lengths[:, None]).astype(np.int64)
    places = np.where(np.arange(most) < centres[:, None], places, places[:, :1])
    marked = np.zeros((len(key), size), bool)
    np.put_along_axis(marked, places, True, axis=1)
    if not grid:
        return _dilated(marked, block, axis=1)
    squares = marked.reshape(-1, grid, grid)
    return _dilated(_dilated(squares, block, axis=1), block, axis=2).reshape(-1, size)


def _dilated(marked: np.ndarray, block: int, axis: int) -> np.ndarray:
    """Mark the `block` positions around each marked one along `axis`; of an even number one more lies in front."""
    found, size = marked.copy(), marked.shape[axis]
    for offset in range(1, min(block // 2, size - 1) + 1):  # a clip may be shorter than half a block
        to, back = [slice(None)] * marked.ndim, [slice(None)] * marked.ndim
        to[axis], back[axis] = slice(offset, None), slice(None, size - offset)
        found[tuple(back)] |= marked[tuple(to)]
        if offset <= (block - 1) // 2:
            found[tuple(to)] |= marked[tuple(back)]
    return found


def noise_keys(seed: int, epochs: Epochs, samples: np.ndarray, masks: int) -> np.ndarray:
    """Return the key of the decoder's noise for each mask, int64 [B, M]."""
    return keys(seed, epochs, samples, Stream.NOISE, masks).view(np.int64)
