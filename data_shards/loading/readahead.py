"""Read-ahead: a process beside each rank's workers that fetches the data of coming steps before a worker asks for it.

When windows of the order end, the next windows need all of their chunks within a few steps. So the process looks ahead
as far as its budget of bytes allows. It changes nothing but the time at which bytes arrive: without it, or if it fails,
workers fetch for themselves.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import Synchronized

import numpy as np

from configs.schema_training import DataConfig
from data_shards.loading.steps import Steps
from data_shards.order.cursor import Cursor, local_ranks
from data_shards.processes import WorkerContext, end_with_parent, without_main
from data_shards.shards.chunks import chunk_span, ensure_cached, row_bytes
from data_shards.shards.index import Index
from data_shards.shards.storage import is_remote, local_path

log = logging.getLogger(__name__)

_CONNECTIONS = 8  # requests to a store at a time
_POLL_S = 0.05


class ReadAhead:
    """The read-ahead process of one rank, from a step on."""

    def __init__(
        self, context: WorkerContext, plan: Steps, index: Index, chunk: int, horizon: int, budget: int, step: int
    ) -> None:
        """Start the process. chunk: samples in a chunk. horizon, budget: most steps and bytes to be ahead."""
        self._consumed = context.Value("q", step - 1, lock=False)
        arguments = (plan, index, chunk, horizon, budget, step, self._consumed)
        self._process = context.Process(target=_fetch_ahead, args=arguments, daemon=True, name="read-ahead")
        with without_main():
            self._process.start()
        self.close = weakref.finalize(self, _end, self._process)
        """End the process. It also ends when this object is collected."""

    def advance(self, step: int) -> None:
        """Record that the steps up to this one were consumed."""
        self._consumed.value = step


def _end(process: BaseProcess) -> None:
    process.kill()
    process.join()


def start_read_ahead(
    context: WorkerContext, plan: Steps, index: Index, cursor: Cursor, data: DataConfig, step: int
) -> ReadAhead | None:
    """Start this rank's process; return None if `data.read_ahead_mb` is 0."""
    order, budget = cursor.order, _budget(data, index)
    horizon = max(1, order.window // cursor.per_lane)  # a window's steps: the next window is fetched during this one
    return ReadAhead(context, plan, index, order.chunk, horizon, budget, step) if budget else None


def _budget(data: DataConfig, index: Index) -> int:
    """Return the most bytes to be ahead. Remote shards: at most this rank's share of half the cache."""
    budget = data.read_ahead_mb * 2**20
    if any(map(is_remote, index.paths)):
        budget = min(budget, index.storage.cache_bytes // 2 // local_ranks())
    return budget


def _fetch_ahead(
    plan: Steps, index: Index, chunk: int, horizon: int, budget: int, first: int, consumed: Synchronized
) -> None:
    end_with_parent()
    try:
        _walk(plan, index, chunk, horizon, budget, first, consumed)
    except Exception as error:  # a worker will meet the same error, and report it
        log.warning("nothing more is read ahead: %s: %s", type(error).__name__, error)


def _walk(plan: Steps, index: Index, chunk: int, horizon: int, budget: int, first: int, consumed: Synchronized) -> None:
    """Fetch the chunks of step after step, as far ahead as horizon and budget allow."""
    ahead: deque[tuple[int, int]] = deque()  # a step, and the bytes that it was the first to need
    seen: OrderedDict[tuple[int, int], None] = OrderedDict()  # chunks that are not fetched again
    remembered = 64 + 2 * budget // int(chunk * index.mean_size)
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        for step in count(first):
            if step <= consumed.value:  # the workers have overtaken this process
                continue
            while step > consumed.value + horizon or sum(size for _, size in ahead) > budget:
                time.sleep(_POLL_S)
                while ahead and ahead[0][0] <= consumed.value:
                    ahead.popleft()
            new = [item for item in _chunks(plan, index, chunk, step) if item not in seen]
            seen.update(dict.fromkeys(new))
            while len(seen) > remembered:
                seen.popitem(last=False)
            sizes = list(pool.map(lambda item: _fetch(index, chunk, *item), new))
            ahead.append((step, sum(sizes)))


def _chunks(plan: Steps, index: Index, chunk: int, step: int) -> list[tuple[int, int]]:
    """Return (shard, number) of every chunk that holds samples of a step."""
    samples = np.concatenate([request.samples for request in plan.requests(step)])
    shards = np.searchsorted(index.starts, samples, "right") - 1
    chunks = (samples - index.starts[shards]) // chunk
    return list(dict.fromkeys(zip(shards.tolist(), chunks.tolist(), strict=True)))


def _fetch(index: Index, chunk: int, shard: int, number: int) -> int:
    """Fetch a chunk and return its bytes; 0 if that failed."""
    try:
        start, stop = chunk_span(row_bytes(index, shard), number * chunk, chunk)
        if is_remote(index.paths[shard]):
            ensure_cached(index, shard, start, stop)
        else:
            _advise(index.paths[shard], start, stop)
        return stop - start
    except (OSError, ValueError) as error:  # the worker that needs it will report it
        log.info("not read ahead: %s", error)
        return 0


def _advise(path: str, start: int, stop: int) -> None:
    """Have the system read a part of a file into its page cache."""
    descriptor = os.open(local_path(path), os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(descriptor, start, stop - start, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(descriptor)
