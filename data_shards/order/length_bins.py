"""Batches by length: which samples are a step, and which of those a micro-batch, for speech and text.

The samples of a window of the order, those of all lanes together, are sorted by length and cut into bins, a step each;
the bins are visited in a permuted order. So all ranks hold samples of about one length in a step, and none waits for
another. What a step holds does not depend on ranks or micro-batches, and an epoch has the steps it has without bins.
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

_MAPPED = 128  # shards whose rows stay mapped
_CONNECTIONS = 8  # sidecars that are fetched at a time


class Lengths:
    """Tokens of samples, from the sidecars of their shards alone: a data set's may be too many to be held."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self._mapped: dict[int, np.ndarray] = {}

    def __reduce__(self) -> tuple[type[Lengths], tuple[Index]]:
        return Lengths, (self.index,)  # in another process nothing is mapped yet

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Tokens of the samples, int64 [n]. Raises as `Index.rows`."""
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
        """Bring the sidecars of those of the shards that are remote into this node's cache, several at a time."""
        remote = [shard for shard in shards if shard not in self._mapped and is_remote(self.index.paths[shard])]
        if remote:
            with ThreadPoolExecutor(_CONNECTIONS) as pool:
                for _ in pool.map(self.index.rows, remote):
                    pass

    def _rows(self, shard: int) -> np.ndarray:
        rows = self._mapped.pop(shard, None)
        self._mapped[shard] = self.index.rows(shard) if rows is None else rows  # the last used is the last
        if len(self._mapped) > _MAPPED:
            del self._mapped[next(iter(self._mapped))]
        return self._mapped[shard]


class Step(NamedTuple):
    """The samples of a step on all ranks, from the longest; each array is int64 [n]."""

    lanes: np.ndarray
    positions: np.ndarray
    samples: np.ndarray
    epochs: np.ndarray
    lengths: np.ndarray
    """Tokens, at most those of the longest sample."""


def equal_tokens(tokens: np.ndarray, bins: int) -> np.ndarray:
    """Edges int64 [bins + 1] that cut units of `tokens` [n >= bins] into bins of about equal sums, none empty."""
    total = np.cumsum(tokens)
    targets = total[-1] * np.arange(1, bins) / bins
    inner = np.searchsorted(total - tokens / 2, targets)
    number = np.arange(1, bins)
    inner = np.maximum.accumulate(np.maximum(inner, 1) - number) + number  # at least a unit in each bin before ...
    inner = np.minimum(inner, len(tokens) - bins + number)  # ... and behind
    return np.concatenate([[0], inner, [len(tokens)]])


class Bins:
    """The steps of a run; `lengths`: ids of samples, int64 [n], -> their tokens, int64 [n]."""

    def __init__(self, order: Order, lengths: Callable[[np.ndarray], np.ndarray], cursor: Cursor) -> None:
        assert cursor.equal and cursor.longest and cursor.order.window % cursor.per_lane == 0
        self.longest = cursor.longest
        self.order, self.lengths, self.cursor = order, lengths, cursor
        self._window: tuple[int, int, list[Step]] | None = None

    def step(self, number: int) -> Step:
        """Step `number` of the run."""
        epoch, position = self.cursor.locate(number)
        window, place = divmod(position, self.cursor.order.window)
        if self._window is None or self._window[:2] != (epoch, window):
            self._window = (epoch, window, self._steps(epoch, window))
        return self._window[2][place // self.cursor.per_lane]

    def _steps(self, epoch: int, window: int) -> list[Step]:
        """All steps of a window, in the order in which they are visited."""
        samples = self._sorted_samples(epoch, window)
        units = len(samples.samples) // self.cursor.order.lanes
        bins = units // self.cursor.per_lane
        edges = self._bin_edges(samples.lengths, units, bins) * self.cursor.order.lanes
        steps = [Step(*(array[edges[i] : edges[i + 1]] for array in samples)) for i in range(bins)]
        return [steps[i] for i in self.order.bin_order(epoch, window, bins).tolist()]

    def _bin_edges(self, lengths: np.ndarray, units: int, bins: int) -> np.ndarray:
        """Where the window's units, of a sample per lane, are cut into bins."""
        if self.cursor.equal == "tokens":
            return equal_tokens(lengths.reshape(units, -1).sum(1), bins)
        return np.arange(bins + 1) * self.cursor.per_lane

    def _sorted_samples(self, epoch: int, window: int) -> Step:
        """The window's samples, from the longest; those of one length as they come in the order."""
        lanes = self.cursor.order.lanes
        first, last = self.cursor.window(window)
        samples, epochs = (array.T.ravel() for array in self.order.draw(epoch, np.arange(lanes), first, last))
        lengths = np.minimum(self.lengths(samples), self.longest)
        longest_first = np.argsort(-lengths, kind="stable")
        of_lane = np.tile(np.arange(lanes), last - first)
        position = np.repeat(np.arange(first, last), lanes)
        return Step(*(array[longest_first] for array in (of_lane, position, samples, epochs, lengths)))


def micro_batch_slices(lengths: np.ndarray, world: int, micro: int, micro_tokens: int | None) -> list[slice]:
    """A step's samples, of such `lengths` from the longest, cut into micro-batches: the units of each.

    Unit i is the samples i * world .. (i + 1) * world (excluded), one for each rank, so that all ranks cut alike. On a
    rank, a micro-batch has at most `micro` samples and `micro_tokens` tokens, padding included; ValueError where one
    sample has more.
    """
    longest = lengths[::world]  # of each unit
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
    """Share of a step's time that ranks wait for the one with the most positions, padding included."""
    longest = np.array([lengths[p.start * world : (p.start + 1) * world] for p in parts])  # [parts, ranks]
    positions = np.array([p.stop - p.start for p in parts]) @ longest
    return float(1 - positions.mean() / positions.max()) if positions.any() else 0.0
