"""The micro-batches of one modality on one rank, step after step: sampler and worker processes.

The sampler runs in the training process. A request says everything about its micro-batch, so workers hold no state. Any
number of workers, or none, gives the same tensors in the same order.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Generator, Iterator
from itertools import count
from typing import Any

import torch
from torch.utils.data import DataLoader

from configs.checks.run import check_samples
from configs.command import Temporary
from configs.modality_config import ModalityConfig
from configs.output.lines import prepare_lines
from configs.schema_modalities import Modality
from data_shards.batch import SampleBatch
from data_shards.kinds import kind_of
from data_shards.loading.bad_sample_count import BadSampleCount, Outcome, joined
from data_shards.loading.cost import Cost, total
from data_shards.loading.labels import LabelMember
from data_shards.loading.microbatch import Failure, Loaded, MicroBatches
from data_shards.loading.readahead import ReadAhead, start_read_ahead
from data_shards.loading.slots import Slots, copied_out, slots_of
from data_shards.loading.steps import Requests, steps_of
from data_shards.order.cursor import make_cursor, split_step
from data_shards.processes import end_with_parent, naming_shared_memory, start_worker_server, without_main
from data_shards.shards.chunks import small_cache_warning
from data_shards.shards.index import Index, load_index
from data_shards.shards.reader import Reader
from data_shards.shards.storage import Unreachable

log = logging.getLogger(__name__)


class LoaderFailed(RuntimeError, Temporary):
    """A loader process has died, or its messages cannot be received."""


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)
    end_with_parent()
    prepare_lines()


def _unchanged(loaded: Any) -> Any:
    return loaded


def _checked(loaded: Loaded | Failure) -> Loaded:
    """Return a worker's micro-batch in memory of its own. Raises Unreachable or ValueError if the worker failed."""
    if isinstance(loaded, Failure):
        raise Unreachable(loaded.text) if loaded.outage else ValueError(loaded.text)
    return loaded._replace(batch=copied_out(loaded.batch))


class StepStatistics:
    """Figures of the last step and counts of bad samples. The modalities of a mixture share the counts."""

    bad: BadSampleCount
    """The count over all ranks and all starts of the run, of the steps given to its `add`."""
    outcome: Outcome
    """The last step's samples on this rank. A run gives those of all ranks to `bad.add` once the step is consumed."""

    data_wait = 0.0
    """Seconds that the last step waited for its data."""
    cost = Cost()
    """The cost of loading this rank's samples of the last step, in its loader processes."""
    straggler_share = 0.0
    """Estimated share of the last step lost to the slowest rank: 1 - mean / max of positions per rank, with padding."""


class ModalityLoader(StepStatistics):
    """The data of one modality on one rank. The samples and masks of step t are a pure function of (index, seed, t)."""

    def __init__(
        self,
        config: ModalityConfig,
        rank: int,
        world: int,
        bad: BadSampleCount | None = None,
        labels: LabelMember | None = None,
    ) -> None:
        """Read the index. labels: give labelled batches in place of masked ones.

        Raises ValueError if shards or index are missing, or if masks or batches are impossible.
        """
        self._labels = labels
        self._config = config
        check_samples(config)
        split = split_step(config, rank, world)
        self._index = load_index(config.data)
        kind_of(config.modality).check_index(config, self._index)
        self._cursor = make_cursor(config, self._index, split)
        self._plan = steps_of(config, self._index, self._cursor, split)
        self.bad = bad or BadSampleCount(config.data, logs=rank == 0)
        self._running: weakref.ref[Generator[list[SampleBatch], None, None]] | None = None
        self._context = start_worker_server("data_shards.loading.microbatch") if config.data.workers else None
        self._ahead: ReadAhead | None = None
        self._slots: Slots | None = None
        positions = self._cursor.order.window * split.node_lanes(own=config.longest is None)
        for line in (*self._index.warnings, small_cache_warning(self._index, positions)) if rank == 0 else ():
            if line:
                log.warning("%s", line)

    @property
    def indexes(self) -> dict[Modality, Index]:
        """The index of the modality's shards."""
        return {self._config.modality: self._index}

    @property
    def parts(self) -> dict[Modality, ModalityLoader]:
        """The loader of each modality: this one."""
        return {self._config.modality: self}

    def micro_batch_sizes(self, step: int) -> list[int]:
        """Return the number of samples in each of this rank's micro-batches of a step."""
        return [len(request.samples) for request in self._plan.requests(step)]

    @property
    def samples(self) -> int:
        """Samples of the data set."""
        return self._index.samples

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch, the same on every rank. Fewer than `batch.global` samples are left over."""
        return self._cursor.steps_per_epoch

    def epoch_of(self, step: int) -> int:
        """Return the epoch that a step belongs to."""
        return self._cursor.locate(step)[0]

    def steps(self, first_step: int) -> Iterator[list[SampleBatch]]:
        """Return an endless iterator over this rank's micro-batches of step `first_step` and of each step after it.

        The number of a step's micro-batches is the same on every rank. For speech and text it varies between steps.
        Workers start at once. Raises ValueError if a sample cannot be replaced, Unreachable in an outage, and
        LoaderFailed if a worker died. Without workers, other errors of loading are raised unchanged.
        """
        self.close()
        steps = self._steps(self._start(first_step), first_step)
        if self._context:
            data = self._config.data
            self._ahead = start_read_ahead(self._context, self._plan, self._index, self._cursor, data, first_step)
        self._running = weakref.ref(steps)
        return steps

    def _start(self, first_step: int) -> Iterator[Loaded | Failure]:
        data = self._config.data
        self._slots = slots_of(self._config)
        loader = DataLoader(
            MicroBatches(self._index, self._config, self._cursor.order, self._slots, self._labels),
            batch_size=None,
            sampler=Requests(self._plan, first_step),
            collate_fn=_unchanged,
            num_workers=data.workers,
            prefetch_factor=data.prefetch if data.workers else None,
            pin_memory=torch.cuda.is_available(),
            multiprocessing_context=self._context,
            worker_init_fn=_start_worker if data.workers else None,
        )
        with without_main(), naming_shared_memory():
            if self._context:
                self._context.Lock()  # where there is no room, torch's iterator would leave a traceback of its own
            return iter(loader)

    def _steps(self, batches: Iterator[Loaded | Failure], first_step: int) -> Generator[list[SampleBatch], None, None]:
        for number in count(first_step):
            started = time.perf_counter()
            try:
                step = [_checked(next(batches))]
                while not step[-1].last:
                    step.append(_checked(next(batches)))
            except Unreachable as error:  # in a worker, or in the sampler, which reads sidecars
                remedy = "no sample was replaced, and the same command goes on once it can be"
                raise Unreachable(f"data.shards cannot be read: {error}; {remedy}") from error
            except (RuntimeError, EOFError, OSError) as error:
                if not self._config.data.workers:
                    raise
                raise LoaderFailed(
                    f"a loader process failed: {error}; where it was killed, memory or /dev/shm may have run out: "
                    f"lower data.workers, data.prefetch or batch.micro"
                ) from error
            self.data_wait = time.perf_counter() - started
            if self._ahead:
                self._ahead.advance(number)
            self.outcome = joined([loaded.outcome for loaded in step])
            self.cost = total(loaded.cost for loaded in step)
            self.straggler_share = self._plan.straggler_share(number)
            yield [loaded.batch for loaded in step]

    def names_of(self, batch: SampleBatch) -> list[str]:
        """Return shard and key of a micro-batch's samples. Raises Unreachable if a store does not answer."""
        reader = Reader(self._index)
        names = [reader.name(sample) for sample in batch.sample_ids.tolist()]
        reader.close()
        return names

    def state_dict(self, consumed_steps: int) -> dict[str, Any]:
        """Return the data position for a checkpoint.

        It is JSON-able, the same on every rank, and the same for every number of ranks.
        """
        return self._cursor.state_dict(consumed_steps)

    def load_state_dict(self, state: dict[str, Any]) -> int:
        """Return the consumed steps of a checkpoint.

        Raises ValueError if the order would change. The message names the key that changes it, and the remedy.
        """
        if names := state.get("modalities"):
            raise ValueError(f"the checkpoint is of a mixture; set modality=[{','.join(names)}], or use a new run.dir")
        return self._cursor.load_state_dict(state)

    def close(self) -> None:
        """End the workers, and the iterator over steps; log a summary of the bad samples, if there were any."""
        if self._running and (steps := self._running()):
            steps.close()  # it holds the only reference to torch's iterator, whose end is that of the workers
        self.bad.close()
        if self._ahead:
            self._ahead.close()
        self._slots = None
