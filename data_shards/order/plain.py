"""The order of samples: a pure function of (seed, epoch, lane, position), the same for any number of processes.

The shards are cut into chunks of consecutive samples. The permuted chunks form one line of N samples. The line is cut
into L lanes of N // L positions. In every lane, each window of W positions is permuted. A step takes the same positions
of every lane. The order leaves out at most L - 1 samples of an epoch, others in each epoch; a run also leaves out what
fills no whole step at the end of a lane.

Shards of 7 and 6 samples, seed 0, epoch 0, chunk 2, L = 2, W = 3, and 2 positions of a lane per step:

    shards     0  1  2  3  4  5  6        7  8  9 10 11 12
    chunks    (0  1)(2  3)(4  5)(6)      (7  8)(9 10)(11 12)      a shard's last chunk may be shorter
    line      (2  3)(4  5)(6)(9 10)(0  1)(7  8)(11 12)            the chunks, permuted

                        window 0     window 1
    lane 0 of line       2  3  4      5  6  9
      permuted           4  3  2      5  9  6
    lane 1 of line      10  0  1      7  8 11                     12 is left out
      permuted           0 10  1     11  8  7

              step 0      step 1      step 2
    lane 0     4  3        2  5        9  6
    lane 1     0 10        1 11        8  7
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np

RECIPE = 1
"""Version of this order. A resume refuses a checkpoint of another version: its run would see another order."""

_BINS, _CHUNKS = 0, 1  # third word of the counter; it is 2 + lane for the windows of a lane


@dataclass(frozen=True)
class Blend:
    """Weights of several data sets in one order: see `data_shards.order.blend`."""

    weights: tuple[int, ...]
    """Positions per item in every block of a lane."""
    items: tuple[int, ...]
    """Number of shards per item; the shards are listed item by item."""
    epoch: Literal["mixture", "source"]
    """The value of `data.epoch`."""


@dataclass(frozen=True)
class OrderConfig:
    """The constants of an order. They are kept in the checkpoint."""

    seed: int
    lanes: int
    chunk: int
    """Samples per chunk."""
    window: int
    """Positions of a lane that are permuted together."""
    blend: Blend | None = None
    """None if all shards are one data set."""

    @property
    def endless(self) -> bool:
        """True if positions never end. Then epochs belong to each item, not to the whole order."""
        return self.blend is not None and self.blend.epoch == "source"


class Draw(NamedTuple):
    """Samples at some positions, and their epochs; both int64 [lanes, positions]."""

    samples: np.ndarray
    epochs: np.ndarray
    """Epoch of each sample, which keys its masks and augmentation."""


class Order(Protocol):
    """The order of a run. In an endless order positions never end, and the argument `epoch` is ignored."""

    @property
    def lane_length(self) -> int:
        """Positions of a lane in an epoch. In an endless order: positions after which every item has ended an epoch."""

    def draw(self, epoch: int, lanes: np.ndarray, first: int, last: int) -> Draw:
        """Samples at the positions `first .. last` (excluded) of the lanes."""

    def replacements(self, epoch: int, lane: int, position: int) -> Iterator[int]:
        """Yield the samples that may replace a bad one at (lane, position), in the order in which they are tried.

        First the rest of its window, from the next position on and wrapping around; then the later windows, then the
        earlier ones.
        """

    def bin_order(self, epoch: int, window: int, count: int) -> np.ndarray:
        """Permutation int64 [count]: the order in which a window's `count` bins are visited."""


def random_words(seed: int, epoch: int, counter: tuple[int, int, int, int], count: int) -> np.ndarray:
    """`count` random words, uint64 [count].

    Orders use only raw Philox words and a stable sort: these are the same in every version of numpy.
    """
    return np.random.Philox(key=[seed, epoch], counter=list(counter)).random_raw(count)


def permuted_bins(seed: int, epoch: int, window: int, count: int) -> np.ndarray:
    """Permutation of a window's bins, as `Order.bin_order` gives it."""
    return np.argsort(random_words(seed, epoch, (0, 0, _BINS, window), count), kind="stable")


class EpochOrder:
    """The order of one epoch of one data set.

    counts: samples per shard, int64 [shards]; item: number of the data set, if several are blended.
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
        self._chunk = np.argsort(words, kind="stable").astype(np.uint32)  # chunks along the line ...
        del words
        self._end = np.cumsum(sizes[self._chunk], dtype=np.int64)  # ... and the end of each, in positions of the line
        self._window: tuple[int, bytes, np.ndarray] | None = None

    def _permutations(self, lanes: np.ndarray, window: int) -> np.ndarray:
        """Permutation of a window's positions per lane, int64 [lanes, positions]. The last result is kept."""
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
        """Samples at positions of the line; any shape."""
        place = np.searchsorted(self._end, line, "right")
        chunk = self._chunk[place].astype(np.int64)
        shard = np.searchsorted(self._shard_chunk, chunk, "right") - 1
        row = (chunk - self._shard_chunk[shard]) * self.config.chunk
        return self._shard_start[shard] + row + line - np.where(place, self._end[place - 1], 0)

    def replacements(self, lane: int, position: int) -> Iterator[int]:
        """Yield samples as `Order.replacements`."""
        size = self.config.window
        own, windows = position // size, -(-self.lane_length // size)
        for window in [*range(own, windows), *range(own)]:
            samples = self.ids(np.array([lane]), window * size, min((window + 1) * size, self.lane_length))[0]
            if window == own:
                samples = np.roll(samples, -(position % size) - 1)[:-1]
            yield from samples.tolist()


class PlainOrder:
    """The order of one data set in all epochs. `counts`, `item`: see `EpochOrder`."""

    def __init__(self, counts: np.ndarray, config: OrderConfig, item: int = 0) -> None:
        self.counts, self.config, self.item = counts, config, item
        self.lane_length = int(counts.sum()) // config.lanes
        self._epochs: dict[int, EpochOrder] = {}

    def _epoch_order(self, epoch: int) -> EpochOrder:
        """The order of one epoch. The last two are kept."""
        if epoch not in self._epochs:
            self._epochs = dict([*self._epochs.items()][-1:])
            self._epochs[epoch] = EpochOrder(self.counts, self.config, epoch, self.item)
        return self._epochs[epoch]

    def draw(self, epoch: int, lanes: np.ndarray, first: int, last: int) -> Draw:
        """Samples as `Order.draw`."""
        samples = self._epoch_order(epoch).ids(lanes, first, last)
        return Draw(samples, np.full_like(samples, epoch))

    def replacements(self, epoch: int, lane: int, position: int) -> Iterator[int]:
        """Yield samples as `Order.replacements`."""
        return self._epoch_order(epoch).replacements(lane, position)

    def bin_order(self, epoch: int, window: int, count: int) -> np.ndarray:
        """Permutation as `Order.bin_order`."""
        return permuted_bins(self.config.seed, epoch, window, count)
