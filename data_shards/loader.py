"""The micro-batches of one rank, step after step: sampler, worker processes, and the policy for bad samples.

The sampler runs in the training process and a request says everything about its micro-batch, so workers hold no state:
any number of them, or none, gives the same tensors in the same order.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Generator, Iterator
from itertools import count
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from configs.checks import check_vision
from configs.schema import DataConfig, PretrainConfig
from data_shards.batch import MaskedBatch
from data_shards.cursor import Cursor, StepSplit, make_cursor, split_step
from data_shards.index import load_index
from data_shards.microbatch import Loaded, MicroBatches, Request
from data_shards.order import EpochOrder
from data_shards.processes import end_with_parent, start_worker_server, without_main

log = logging.getLogger(__name__)

_LOGGED = 10  # bad samples that are logged one by one; then the 16th, 32nd, 64th ...


class _Requests(Sampler[Request]):
    """The requests of one rank from a step on, without end."""

    def __init__(self, counts: np.ndarray, cursor: Cursor, split: StepSplit, first_step: int) -> None:
        self.counts, self.cursor, self.split, self.first_step = counts, cursor, split, first_step

    def __iter__(self) -> Iterator[Request]:
        order = None
        for step in count(self.first_step):
            epoch, position = self.cursor.locate(step)
            if order is None or order.epoch != epoch:
                order = EpochOrder(self.counts, self.cursor.order, epoch)
            yield from self._of_step(order, position)

    def _of_step(self, order: EpochOrder, position: int) -> Iterator[Request]:
        """The step's samples, lane after lane, cut into micro-batches."""
        lanes, per_lane = np.array(self.split.rank_lanes), self.split.per_lane
        samples = order.ids(lanes, position, position + per_lane).ravel()
        positions = np.tile(np.arange(position, position + per_lane), len(lanes))
        lanes = lanes.repeat(per_lane)
        for first in range(0, len(samples), self.split.micro):
            part = slice(first, first + self.split.micro)
            yield Request(order.epoch, lanes[part], positions[part], samples[part])


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)
    end_with_parent()


def _as_it_is(loaded: Any) -> Any:
    return loaded


def _checked(loaded: Loaded | str) -> Loaded:
    """What a worker loaded; ValueError with its words where it could not."""
    if isinstance(loaded, str):
        raise ValueError(loaded)
    return loaded


class BadSampleCount:
    """Counts replaced samples, logs some of them, and stops the run past `data.max_bad_*`."""

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self.read = self.replaced = self.reported = 0

    def add(self, loaded: Loaded) -> None:
        """Count one consumed micro-batch. ValueError past the limits."""
        self.read += len(loaded.batch)
        self.replaced += loaded.replaced
        for report in loaded.reports:
            self.reported += 1
            if self.reported <= _LOGGED or self.reported.bit_count() == 1:
                log.warning("bad sample %d, replaced: %s, %s: %s", self.reported, *report)
        limit = max(self.config.max_bad_samples, self.config.max_bad_fraction * self.read)
        if loaded.reports and self.replaced > limit:
            last = loaded.reports[-1]
            raise ValueError(
                f"{self.replaced} of {self.read} samples could not be used, more than data.max_bad_samples="
                f"{self.config.max_bad_samples} and data.max_bad_fraction={self.config.max_bad_fraction}; the last: "
                f"{last.shard}, {last.sample}: {last.reason}; see ./run.sh shards validate shards={last.shard}"
            )


class MaskedBatchLoader:
    """The data of one rank. The samples and masks of step t are a pure function of (index, seed, t)."""

    def __init__(self, config: PretrainConfig, rank: int, world: int) -> None:
        """Raises ValueError where shards or index are missing, or where masks or batches are impossible."""
        self._config = config
        check_vision(config.vision)
        self._split = split_step(config.batch.global_, config.batch.micro, config.data.lanes, rank, world)
        self._index = load_index(config.data.shards)
        self._cursor = make_cursor(config, self._index, self._split)
        self._bad = BadSampleCount(config.data)
        self._running: weakref.ref[Generator[list[MaskedBatch], None, None]] | None = None
        self._context = start_worker_server("data_shards.microbatch") if config.data.workers else None
        self.data_wait = 0.0
        """Seconds that the last step waited for its data."""
        for line in self._index.warnings if rank == 0 else ():
            log.warning("%s", line)

    @property
    def samples(self) -> int:
        """Samples of the data set."""
        return self._index.samples

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch, the same on every rank; fewer than `batch.global` samples are left over."""
        return self._cursor.steps_per_epoch

    @property
    def bad_samples(self) -> int:
        """Samples of the consumed steps that had to be replaced: this process's, and those restored."""
        return self._bad.replaced

    @property
    def bad_counts(self) -> tuple[int, int]:
        """Samples replaced and samples read, over the same steps as `bad_samples`: what a checkpoint keeps of them."""
        return self._bad.replaced, self._bad.read

    def restore_bad_counts(self, replaced: int, read: int) -> None:
        """Go on from the counts of an earlier process; `data.max_bad_*` apply to the whole."""
        self._bad.replaced, self._bad.read = replaced, read

    def epoch_of(self, step: int) -> int:
        """The epoch that a step belongs to."""
        return self._cursor.locate(step)[0]

    def steps(self, first_step: int) -> Iterator[list[MaskedBatch]]:
        """This rank's micro-batches of step `first_step` and of each step after it, without end.

        Workers start at once. Raises ValueError past `data.max_bad_*`, RuntimeError where a worker died, and without
        workers whatever loading raises.
        """
        self.close()
        steps = self._steps(self._start(first_step))
        self._running = weakref.ref(steps)
        return steps

    def _start(self, first_step: int) -> Iterator[Loaded | str]:
        data = self._config.data
        loader = DataLoader(
            MicroBatches(self._index, self._config.vision, self._cursor.order),
            batch_size=None,
            sampler=_Requests(self._index.counts, self._cursor, self._split, first_step),
            collate_fn=_as_it_is,
            num_workers=data.workers,
            prefetch_factor=data.prefetch if data.workers else None,
            pin_memory=torch.cuda.is_available(),
            multiprocessing_context=self._context,
            worker_init_fn=_start_worker if data.workers else None,
        )
        with without_main():
            return iter(loader)

    def _steps(self, batches: Iterator[Loaded | str]) -> Generator[list[MaskedBatch], None, None]:
        while True:
            started = time.perf_counter()
            try:
                step = [_checked(next(batches)) for _ in range(self._split.micro_batches)]
            except (RuntimeError, EOFError, OSError) as error:
                if not self._config.data.workers:
                    raise
                raise RuntimeError(
                    f"a loader process failed: {error}; where it was killed, memory or /dev/shm may have run out: "
                    f"lower data.workers, data.prefetch or batch.micro"
                ) from error
            self.data_wait = time.perf_counter() - started
            for loaded in step:
                self._bad.add(loaded)
            yield [loaded.batch for loaded in step]

    def state_dict(self, consumed_steps: int) -> dict[str, Any]:
        """The data position for a checkpoint, JSON-able; the same on every rank, and for every number of ranks."""
        return self._cursor.state_dict(consumed_steps)

    def load_state_dict(self, state: dict[str, Any]) -> int:
        """Consumed steps of a checkpoint. ValueError names the key that would change the order, and the remedy."""
        return self._cursor.load_state_dict(state)

    def close(self) -> None:
        """End the workers, and the iterator over steps."""
        if self._running and (steps := self._running()):
            steps.close()  # it holds the only reference to torch's iterator, which ends them
