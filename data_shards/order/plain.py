"""Which sample comes when: a pure function of (seed, epoch, lane, position), the same for any number of processes.

The shards are cut into chunks of consecutive samples; the chunks, permuted, are one line of N samples; the line is
cut into L lanes of N // L positions; and in every lane, windows of W positions are permuted. Step t takes the same
positions of every lane. At most L - 1 samples are left out of an epoch, others in each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np

RECIPE = 1
"""Version of this order; a change of it gives every checkpoint another order, and is refused on resuming."""

_BINS, _CHUNKS = 0, 1  # third word of the counter; 2 + lane for the windows of a lane


@dataclass(frozen=True)
class Blend:
    """Several data sets in one order: see `data_shards.order.blend`."""

    weights: tuple[int, ...]
    """Positions of each item in every block of a lane."""
    items: tuple[int, ...]
    """Shards of each item, one item after another."""
    epoch: Literal["mixture", "source"]
    """As `data.epoch`."""


@dataclass(frozen=True)
class OrderConfig:
    """The constants of an order; they are kept in the checkpoint."""

    seed: int
    lanes: int
    chunk: int
    """Samples per chunk."""
    window: int
    """Positions of a lane that are permuted together."""
    blend: Blend | None = None
    """None: all shards are one data set."""

    @property
    def endless(self) -> bool:
        """Whether positions go on for ever, and only each item's own have epochs."""
        return self.blend is not None and self.blend.epoch == "source"


class Draw(NamedTuple):
    """What is at some positions; both int64 [lanes, positions]."""

    samples: np.ndarray
    epochs: np.ndarray
    """The epoch of each sample, which keys its masks and augmentation."""


class Order(Protocol):
    """The order of a run. Where it is endless, positions go on for ever, and `epoch` does not matter."""

    @property
    def lane_length(self) -> int:
        """Positions of a lane in an epoch; of an endless order, until every item has begun anew."""

    def draw(self, epoch: int, lanes: np.ndarray, first: int, last: int) -> Draw:
        """The positions `first .. last` (excluded) of the lanes."""

    def replacements(self, epoch: int, lane: int, position: int) -> Iterator[int]:
        """What replaces a bad sample: the next ones of its window, around to itself; then those of the next windows."""

    def bin_order(self, epoch: int, window: int, count: int) -> np.ndarray:
        """The order in which a window's `count` bins are visited, a permutation."""


def random_words(seed: int, epoch: int, counter: tuple[int, int, int, int], count: int) -> np.ndarray:
    """`count` random words. Raw Philox output and a stable sort, for numpy promises the same of nothing else."""
    return np.random.Philox(key=[seed, epoch], counter=list(counter)).random_raw(count)


def permuted_bins(seed: int, epoch: int, window: int, count: int) -> np.ndarray:
    """As `Order.bin_order`."""
    return np.argsort(random_words(seed, epoch, (0, 0, _BINS, window), count), kind="stable")


class EpochOrder:
    """The order of one epoch of one data set.

    `counts` int64 [shards]: samples of each shard; `item`: its number where several are blended.
    """

    def __init__(self, counts: np.ndarray, config: OrderConfig, epoch: int, item: int = 0) -> None:
        self.config, self.epoch, self.item = config, epoch, item
        self.lane_length = int(counts.sum()) // config.lanes
        chunks = -(-counts // config.chunk)  # per shard
        self._shard_start, self._shard_chunk = np.cumsum(counts) - counts, np.cumsum(chunks) - chunks
        sizes = np.full(int(chunks.sum()), config.chunk, np.uint32)
        there = counts > 0
        sizes[np.cumsum(chunks)[there] - 1] -= (chunks * config.chunk - counts)[there].astype(np.uint32)
        words = random_words(config.seed, epoch, (0, item, _CHUNKS, 0), len(sizes))
        # Kept for the whole epoch: 12 bytes a chunk.
        self._chunk = np.argsort(words, kind="stable").astype(np.uint32)  # the chunks along the line ...
        del words
        self._end = np.cumsum(sizes[self._chunk], dtype=np.int64)  # ... and where each ends
        self._window: tuple[int, bytes, np.ndarray] | None = None

    def _permutations(self, lanes: np.ndarray, window: int) -> np.ndarray:
        """Permutation of the window's positions in each lane, int64 [lanes, positions]; the last one is kept."""
        if self._window is None or self._window[:2] != (window, lanes.tobytes()):
            count = min(self.config.window, self.lane_length - window * self.config.window)
            seed, counters = self.config.seed, [(0, self.item, 2 + lane, window) for lane in lanes.tolist()]
            words = [random_words(seed, self.epoch, counter, count) for counter in counters]
            self._window = (window, lanes.tobytes(), np.argsort(np.stack(words), axis=1, kind="stable"))
        return self._window[2]

    def ids(self, lanes: np.ndarray, first: int, last: int) -> np.ndarray:
        """Samples at the positions `first .. last` (excluded) of the lanes, int64 [lanes, last - first]."""
        assert 0 <= first < last <= self.lane_length
        size, columns = self.config.window, []
        for window in range(first // size, (last - 1) // size + 1):
            start = window * size
            permutation = self._permutations(lanes, window)
            columns.append(start + permutation[:, max(first - start, 0) : last - start])
        return self._samples_at(lanes[:, None] * self.lane_length + np.concatenate(columns, axis=1))

    def _samples_at(self, line: np.ndarray) -> np.ndarray:
        """Samples at such places of the line."""
        place = np.searchsorted(self._end, line, "right")
        chunk = self._chunk[place].astype(np.int64)
        shard = np.searchsorted(self._shard_chunk, chunk, "right") - 1
        row = (chunk - self._shard_chunk[shard]) * self.config.chunk
        return self._shard_start[shard] + row + line - np.where(place, self._end[place - 1], 0)

    def replacements(self, lane: int, position: int) -> Iterator[int]:
        """As `Order.replacements`."""
        size = self.config.window
        own, windows = position // size, -(-self.lane_length // size)
        for window in [*range(own, windows), *range(own)]:
            samples = self.ids(np.array([lane]), window * size, min((window + 1) * size, self.lane_length))[0]
            if window == own:
                samples = np.roll(samples, -(position % size) - 1)[:-1]
            yield from samples.tolist()


class PlainOrder:
    """The order of one data set; `counts` and `item` as `EpochOrder` has them."""

    def __init__(self, counts: np.ndarray, config: OrderConfig, item: int = 0) -> None:
        self.counts, self.config, self.item = counts, config, item
        self.lane_length = int(counts.sum()) // config.lanes
        self._epochs: dict[int, EpochOrder] = {}

    def _epoch_order(self, epoch: int) -> EpochOrder:
        """The order of an epoch; the last two are kept."""
        if epoch not in self._epochs:
            self._epochs = dict([*self._epochs.items()][-1:])
            self._epochs[epoch] = EpochOrder(self.counts, self.config, epoch, self.item)
        return self._epochs[epoch]

    def draw(self, epoch: int, lanes: np.ndarray, first: int, last: int) -> Draw:
        """As `Order.draw`."""
        samples = self._epoch_order(epoch).ids(lanes, first, last)
        return Draw(samples, np.full_like(samples, epoch))

    def replacements(self, epoch: int, lane: int, position: int) -> Iterator[int]:
        """As `Order.replacements`."""
        return self._epoch_order(epoch).replacements(lane, position)

    def bin_order(self, epoch: int, window: int, count: int) -> np.ndarray:
        """As `Order.bin_order`."""
        return permuted_bins(self.config.seed, epoch, window, count)
