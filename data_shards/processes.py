"""Starting helper processes: none of them outlives the process that started it, or imports its entry script again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import context, forkserver, popen_forkserver, resource_tracker
from types import ModuleType
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def end_with_parent() -> None:
    """End this process when the one that started it does, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True, name="end_with_parent").start()


@contextmanager
def without_main() -> Iterator[None]:
    """Start processes that do not import this one's `__main__`: helpers need none of it, and it may be heavy."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _initialise() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches the whole group: end without a traceback each
    end_with_parent()


def map_unordered(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int | None) -> Iterator[Result]:
    """Results of the jobs as they come; `workers` processes, null for one per core, this process where one is enough.

    The first exception of a job is raised here and ends the rest.
    """
    listed = list(jobs)
    processes = min(workers or os.cpu_count() or 1, len(listed))
    if processes <= 1:
        yield from map(function, listed)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _initialise) as executor:
        try:
            with without_main():
                futures = [executor.submit(function, job) for job in listed]
            for future in as_completed(futures):
                yield future.result()
        finally:
            executor.shutdown(cancel_futures=True)


class _KilledPopen(popen_forkserver.Popen):
    """A process that does not hear SIGTERM is ended by SIGKILL."""

    def terminate(self) -> None:
        self.kill()


class _WorkerProcess(context.ForkServerProcess):
    _Popen = staticmethod(_KilledPopen)


class WorkerContext(context.ForkServerContext):
    """Processes forked from a server, deaf to SIGINT, SIGTERM and SIGUSR1."""

    Process = _WorkerProcess


def start_worker_server(module: str) -> WorkerContext:
    """Start a server that imports `module` once, here torch and what it brings, and forks the workers of a loader.

    Unlike forks of a training process its forks are safe beside the threads of CUDA, NCCL and gloo, and they take
    milliseconds. Neither server nor workers see SIGINT, SIGTERM and SIGUSR1, which launchers and clusters send to the
    whole tree: the training process still needs data to finish its step and save. They end with it, however it ends.
    """
    worker_context = WorkerContext()
    worker_context.set_forkserver_preload([module])
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        resource_tracker.ensure_running()  # it unblocks SIGINT and SIGTERM, here too, so it has to be there before
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return worker_context
