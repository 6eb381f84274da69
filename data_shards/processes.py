"""Helper processes that neither outlive the process that started them nor import its entry script."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import context, forkserver, popen_forkserver, resource_tracker
from types import ModuleType
from typing import TypeVar

from configs.command import Temporary
from configs.output.lines import prepare_lines
from data_shards.leftovers import own_name

Job = TypeVar("Job")
Result = TypeVar("Result")


SHARED_MEMORY = "/dev/shm"


def shared_memory_room() -> int | None:
    """Return the free bytes of /dev/shm; None on systems that have none."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize


@contextmanager
def naming_shared_memory() -> Iterator[None]:
    """Name /dev/shm in an error of a full disk from within, where semaphores are made: the system's text does not."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename:
            raise
        raise ValueError(
            f"no room in {SHARED_MEMORY} for a semaphore: remove what fills it, or give the container more "
            f"(docker run --shm-size=1g)"
        ) from error


class ProcessLost(RuntimeError, Temporary):
    """A helper process was killed."""


def end_with_parent() -> None:
    """End this process when its parent ends, for whatever reason the parent ends."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True, name="end_with_parent").start()


@contextmanager
def without_main() -> Iterator[None]:
    """Hide `__main__` from processes that are started meanwhile: helpers do not need it, and its import may be slow."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _initialise() -> None:
    # Ctrl-C reaches the whole group: end without one traceback per process.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_parent()
    prepare_lines()


def map_unordered(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int | None) -> Iterator[Result]:
    """Yield the jobs' results in the order in which they finish.

    workers: number of processes; None for one per core. If one is enough, the jobs run in this process, in order.
    The first exception of a job is raised here and cancels the remaining jobs. Raises ProcessLost if a process was
    killed.
    """
    listed = list(jobs)
    processes = min(workers or os.cpu_count() or 1, len(listed))
    if processes <= 1:
        yield from map(function, listed)
        return
    context = multiprocessing.get_context("spawn")
    _prepare_semaphores()
    with naming_shared_memory():
        pool = ProcessPoolExecutor(processes, context, _initialise)
    with pool as executor:
        try:
            with without_main():
                futures = [executor.submit(function, job) for job in listed]
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            remedy = "if it was killed for memory, lower workers; the same command goes on"
            raise ProcessLost(f"a helper process has ended: {remedy}") from error
        finally:
            executor.shutdown(cancel_futures=True)


def _prepare_semaphores() -> None:
    """Name this process's semaphores after it, and start the tracker that removes them, without its warnings.

    It removes those of a process that ends at once. What it cannot remove, being killed too, the next start removes.
    """
    multiprocessing.current_process()._config["semprefix"] = f"/{own_name()}"  # type: ignore[attr-defined]
    before = os.environ.get("PYTHONWARNINGS", "")
    os.environ["PYTHONWARNINGS"] = f"{before},ignore:resource_tracker:UserWarning".removeprefix(",")
    try:
        resource_tracker.ensure_running()
    finally:
        os.environ["PYTHONWARNINGS"] = before


class _KilledPopen(popen_forkserver.Popen):
    """A forked process that `terminate` ends by SIGKILL, because it blocks SIGTERM."""

    def terminate(self) -> None:
        """End the process by SIGKILL."""
        self.kill()


class _WorkerProcess(context.ForkServerProcess):
    _Popen = staticmethod(_KilledPopen)


class WorkerContext(context.ForkServerContext):
    """Multiprocessing context whose processes are forked from a server."""

    Process = _WorkerProcess


def start_worker_server(module: str) -> WorkerContext:
    """Start a server that imports `module` (and with it torch) once, and forks a loader's workers.

    Forks of a training process are unsafe beside the threads of CUDA, NCCL and gloo. Forks of this server are safe,
    and they take milliseconds. Server and workers block SIGINT, SIGTERM and SIGUSR1. Launchers and clusters send
    these signals to the whole process tree, but the training process still needs data to finish its step and save.
    Server and workers end with the training process, for whatever reason it ends.
    """
    worker_context = WorkerContext()
    worker_context.set_forkserver_preload([module])
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        # It unblocks SIGINT and SIGTERM, in this process too, so it starts before they are blocked.
        _prepare_semaphores()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return worker_context
