"""Batches by length, for speech and text: the samples of a step, and of its micro-batches.

The samples of one window of all lanes are sorted by length and cut into bins. A bin is a step. The bins are visited in
a permuted order. So all ranks hold samples of about one length in a step, and none waits for another. The samples of a
step do not depend on ranks or micro-batches. An epoch has as many steps as without bins.

Two lanes, a window of 6 positions (12 samples), steps of 4 samples. A unit has one sample per lane:

    lengths, from the longest    8  8    6  6    5  5    4  4    3  3    2  2
    units                          0       1       2       3       4       5
    tokens of a unit              16      12      10       8       6       4        56 in all

    equal=samples    bins      | 0       1   | 2       3   | 4       5   |          4 samples each
                     tokens          28            18            10
    equal=tokens     bins      | 0   | 1       2   | 3       4       5   |          2, 4 and 6 samples
                     tokens      16        22                18
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from data_shards.order.cursor import Cursor
from data_shards.order.plain import Order
from data_shards.shards.index import Index
from data_shards.shards.storage import is_remote

_MAPPED = 128  # shards whose rows stay memory-mapped
_CONNECTIONS = 8  # sidecars that are fetched at the same time


class Lengths:
    """Lengths of samples in tokens, read from sidecars on demand: all lengths of a data set may not fit memory."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self._mapped: dict[int, np.ndarray] = {}

    def __reduce__(self) -> tuple[type[Lengths], tuple[Index]]:
        return Lengths, (self.index,)  # in another process nothing is mapped yet

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Lengths in tokens of samples with the ids int64 [n]: int64 [n]. Raises as `Index.rows`."""
        ascending = np.argsort(samples, kind="stable")
        ids = samples[ascending]
        shard_of = np.searchsorted(self.index.starts, ids, "right") - 1
        rows = ids - self.index.starts[shard_of]
        shards, firsts = np.unique(shard_of, return_index=True)
        self._fetch_sidecars(shards.tolist())
        lengths = np.empty(len(samples), np.int64)
        for shard, first, last in zip(shards.tolist(), firsts, [*firsts[1:], len(ids)], strict=True):
            lengths[ascending[first:last]] = self._rows(shard)["length"][rows[first:last]]
        return lengths

    def _fetch_sidecars(self, shards: list[int]) -> None:
        """Fetch the sidecars of the remote shards into this node's cache, several at a time."""
        remote = [shard for shard in shards if shard not in self._mapped and is_remote(self.index.paths[shard])]
        if remote:
            with ThreadPoolExecutor(_CONNECTIONS) as pool:
                for _ in pool.map(self.index.rows, remote):
                    pass

    def _rows(self, shard: int) -> np.ndarray:
        """Rows of a shard. The `_MAPPED` shards used last stay mapped."""
        rows = self._mapped.pop(shard, None)
        # Re-inserted at the end, so that the first key is the least recently used.
        self._mapped[shard] = self.index.rows(shard) if rows is None else rows
        if len(self._mapped) > _MAPPED:
            del self._mapped[next(iter(self._mapped))]
        return self._mapped[shard]


class Step(NamedTuple):
    """The samples of a step on all ranks, sorted from the longest; every array is int64 [n]."""

    lanes: np.ndarray
    positions: np.ndarray
    samples: np.ndarray
    epochs: np.ndarray
    lengths: np.ndarray
    """Length in tokens, at most `Cursor.longest`."""


def equal_tokens(tokens: np.ndarray, bins: int) -> np.ndarray:
    """Edges int64 [bins + 1] that cut n >= bins units into bins of about equal sums of tokens; no bin is empty.

    tokens: tokens per unit, int64 [n]. Bin i has the units edges[i] .. edges[i + 1] (excluded). Edge i is set where the
    running sum passes i / bins of the total. A unit that straddles this target goes to the bin that holds its middle:

        tokens 16, 12, 10, 8, 6, 4; bins = 3; total = 56; targets 18.7 and 37.3

        running sum  0               16          28        38      46    52  56
        units        |       0       |     1     |    2    |   3   |  4  | 5 |
        targets                         ^                 ^
        bins         |               |                     |                 |
        edges        0               1                     3                 6

    A unit's digit stands at its middle. Target 18.7 lies before the middle of unit 1: unit 1 goes to the second bin.
    Target 37.3 lies behind the middle of unit 2: unit 2 goes to the second bin, too. The bins have 16, 22 and 18
    tokens.
    """
    total = np.cumsum(tokens)
    targets = total[-1] * np.arange(1, bins) / bins
    inner = np.searchsorted(total - tokens / 2, targets)
    number = np.arange(1, bins)
    # At least one unit in every bin before the edge, and behind it.
    inner = np.maximum.accumulate(np.maximum(inner, 1) - number) + number
    inner = np.minimum(inner, len(tokens) - bins + number)
    return np.concatenate([[0], inner, [len(tokens)]])


class Bins:
    """The steps of a run, made from bins. lengths: function of samples' ids int64 [n] to their tokens int64 [n]."""

    def __init__(self, order: Order, lengths: Callable[[np.ndarray], np.ndarray], cursor: Cursor) -> None:
        assert cursor.equal and cursor.longest and cursor.order.window % cursor.per_lane == 0
        self.longest = cursor.longest
        self.order, self.lengths, self.cursor = order, lengths, cursor
        self._window: tuple[int, int, list[Step]] | None = None

    def step(self, number: int) -> Step:
        """Step `number` of the run. The steps of the last window are kept."""
        epoch, position = self.cursor.locate(number)
        window, place = divmod(position, self.cursor.order.window)
        if self._window is None or self._window[:2] != (epoch, window):
            self._window = (epoch, window, self._steps(epoch, window))
        return self._window[2][place // self.cursor.per_lane]

    def _steps(self, epoch: int, window: int) -> list[Step]:
        """All steps of a window, in the order of the run."""
        samples = self._sorted_samples(epoch, window)
        units = len(samples.samples) // self.cursor.order.lanes
        bins = units // self.cursor.per_lane
        edges = self._bin_edges(samples.lengths, units, bins) * self.cursor.order.lanes
        steps = [Step(*(array[edges[i] : edges[i + 1]] for array in samples)) for i in range(bins)]
        return [steps[i] for i in self.order.bin_order(epoch, window, bins).tolist()]

    def _bin_edges(self, lengths: np.ndarray, units: int, bins: int) -> np.ndarray:
        """Edges int64 [bins + 1] of a window's bins, in units. A unit is as many samples as there are lanes."""
        if self.cursor.equal == "tokens":
            return equal_tokens(lengths.reshape(units, -1).sum(1), bins)
        return np.arange(bins + 1) * self.cursor.per_lane

    def _sorted_samples(self, epoch: int, window: int) -> Step:
        """The window's samples of all lanes, sorted from the longest. Equal lengths keep the order."""
        lanes = self.cursor.order.lanes
        first, last = self.cursor.window(window)
        samples, epochs = (array.T.ravel() for array in self.order.draw(epoch, np.arange(lanes), first, last))
        lengths = np.minimum(self.lengths(samples), self.longest)
        longest_first = np.argsort(-lengths, kind="stable")
        of_lane = np.tile(np.arange(lanes), last - first)
        position = np.repeat(np.arange(first, last), lanes)
        return Step(*(array[longest_first] for array in (of_lane, position, samples, epochs, lengths)))


def micro_batch_slices(lengths: np.ndarray, world: int, micro: int, micro_tokens: int | None) -> list[slice]:
    """Slices of a rank's samples in a step, one per micro-batch. The same on every rank.

    lengths: tokens of the step's samples on all ranks, sorted from the longest, int64 [n]. Row i is the samples
    i * world .. (i + 1) * world (excluded), one per rank. On a rank, a micro-batch has at most `micro` samples and
    `micro_tokens` tokens, padding included. Raises ValueError if a single sample has more tokens.
    """
    longest = lengths[::world]  # of each row
    if micro_tokens is not None and longest[0] > micro_tokens:
        raise ValueError(
            f"batch.micro_tokens={micro_tokens} does not hold one sample of {longest[0]} tokens: "
            f"set batch.micro_tokens={longest[0]} or more"
        )
    parts, first = [], 0
    while first < len(longest):
        size = micro if micro_tokens is None else min(micro, micro_tokens // max(1, int(longest[first])))
        parts.append(slice(first, min(first + size, len(longest))))
        first += size
    return parts


def straggler_share(lengths: np.ndarray, parts: list[slice], world: int) -> float:
    """Estimated share of a step lost to the slowest rank: 1 - mean / max of positions per rank, padding included.

    Arguments as for `micro_batch_slices`; parts: its result. Time is taken to be proportional to positions.
    """
    longest = np.array([lengths[p.start * world : (p.start + 1) * world] for p in parts])  # [parts, ranks]
    positions = np.array([p.stop - p.start for p in parts]) @ longest
    return float(1 - positions.mean() / positions.max()) if positions.any() else 0.0
