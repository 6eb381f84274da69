"""Which sample comes when: a pure function of (seed, epoch, lane, position), the same for any number of processes.

The shards are cut into chunks of consecutive samples; the chunks, permuted, are one line of N samples; the line is
cut into L lanes of N // L positions; and in every lane, windows of W positions are permuted. Step t takes the same
positions of every lane. At most L - 1 samples are left out of an epoch, others in each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RECIPE = 1
"""Version of this order; a change of it gives every checkpoint another order, and is refused on resuming."""

_BINS, _CHUNKS = 0, 1  # third word of the counter; 2 + lane for the windows of a lane


@dataclass(frozen=True)
class OrderConfig:
    """The constants of an order; they are kept in the checkpoint."""

    seed: int
    lanes: int
    chunk: int
    """Samples per chunk."""
    window: int
    """Positions of a lane that are permuted together."""


def _random(seed: int, epoch: int, stream: int, block: int, count: int) -> np.ndarray:
    """`count` random words. Raw Philox output and a stable sort, for numpy promises the same of nothing else."""
    return np.random.Philox(key=[seed, epoch], counter=[0, 0, stream, block]).random_raw(count)


class EpochOrder:
    """The order of one epoch.

    `counts` int64 [shards]: samples of each shard.
    """

    def __init__(self, counts: np.ndarray, config: OrderConfig, epoch: int) -> None:
        self.config, self.epoch = config, epoch
        self.lane_length = int(counts.sum()) // config.lanes
        chunks = -(-counts // config.chunk)  # per shard
        shard_of = np.repeat(np.arange(len(counts)), chunks)
        row = (np.arange(len(shard_of)) - np.repeat(np.cumsum(chunks) - chunks, chunks)) * config.chunk
        sizes = np.minimum(config.chunk, counts[shard_of] - row)
        first = (np.cumsum(counts) - counts)[shard_of] + row
        permuted = np.argsort(_random(config.seed, epoch, _CHUNKS, 0, len(first)), kind="stable")
        self._first = first[permuted]  # id of each chunk's first sample, along the line
        self._start = np.cumsum(sizes[permuted]) - sizes[permuted]  # its place in the line
        self._window: tuple[int, bytes, np.ndarray] | None = None

    def _permutations(self, lanes: np.ndarray, window: int) -> np.ndarray:
        """Permutation of the window's positions in each lane, int64 [lanes, positions]; the last one is kept."""
        if self._window is None or self._window[:2] != (window, lanes.tobytes()):
            count = min(self.config.window, self.lane_length - window * self.config.window)
            words = [_random(self.config.seed, self.epoch, 2 + lane, window, count) for lane in lanes.tolist()]
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
        line = lanes[:, None] * self.lane_length + np.concatenate(columns, axis=1)
        chunk = np.searchsorted(self._start, line, "right") - 1
        return self._first[chunk] + line - self._start[chunk]

    def bins(self, window: int, count: int) -> np.ndarray:
        """The order in which the window's `count` bins are visited, a permutation."""
        return np.argsort(_random(self.config.seed, self.epoch, _BINS, window, count), kind="stable")
