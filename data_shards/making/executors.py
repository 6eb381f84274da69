"""Writing the shards of a build in processes of this machine, or on the workers of a dask cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, as_completed
from contextlib import contextmanager
from typing import Any, TypeVar

from configs.command import Temporary
from configs.schema_commands import BuildConfig
from data_shards.processes import map_unordered

Job = TypeVar("Job")
Result = TypeVar("Result")

_CONNECT_S = 15
_TALKATIVE = ("distributed", "distributed.client", "distributed.core", "tornado.application", "asyncio")
"""Loggers that write tracebacks of lost connections, of which our error tells."""
_GONE = "the same command goes on where this one ended"


class ClusterLost(RuntimeError, Temporary):
    """The scheduler or the workers of a cluster are gone."""


def check_executor(config: BuildConfig) -> None:
    """Raise ValueError if `executor` and `address` do not belong together, or if dask is not installed."""
    if config.executor == "local" and config.address:
        raise ValueError(f"address={config.address} is of executor=dask: add it, or leave out address")
    if config.executor == "dask" and not config.address:
        raise ValueError("executor=dask needs the address of a scheduler: address=tcp://HOST:8786")
    if config.executor == "dask":
        try:
            import distributed  # noqa: F401
        except ImportError:
            raise ValueError(
                "executor=dask needs dask: .venv/bin/pip install 'distributed>=2025.1,<2027', here and on all workers"
            ) from None


def run_jobs(function: Callable[[Job], Result], jobs: Sequence[Job], config: BuildConfig) -> Iterator[Result]:
    """Yield the jobs' results in the order in which they finish.

    The first exception of a job is raised here, and cancels the jobs that have not begun. Raises ClusterLost or
    ProcessLost if those who run the jobs are gone.
    """
    if config.executor == "local":
        yield from map_unordered(function, jobs, config.workers)
        return
    if not jobs:
        return
    with _client(config.address) as client:
        yield from _on_cluster(client, function, jobs)


def _on_cluster(client: Any, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
    from distributed.scheduler import KilledWorker

    executor = client.get_executor(pure=False)  # concurrent.futures.Executor
    futures = [executor.submit(function, job) for job in jobs]
    try:
        for future in as_completed(futures):
            yield future.result()
    except KilledWorker as error:
        raise ClusterLost(
            "several workers were lost, one after another, with the same shard; if they were killed for memory, give "
            f"them more, or lower shard_mb; {_GONE}"
        ) from error
    except CancelledError as error:
        raise ClusterLost(f"the connection to the scheduler was lost: start it again; {_GONE}") from error
    finally:
        for future in futures:
            future.cancel()
        executor.shutdown(wait=False)


@contextmanager
def _client(address: str) -> Iterator[Any]:
    """Connect to a scheduler that has a worker. Raises ValueError for no address, ClusterLost if nobody answers."""
    from distributed import Client

    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=_CONNECT_S, set_as_default=False)
    except ValueError as error:
        raise ValueError(f"address={address} is none of a dask scheduler ({error}): as tcp://HOST:8786") from error
    except (OSError, TimeoutError) as error:
        raise ClusterLost(f"address={address}: no dask scheduler answers there; start one, then {_GONE}") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_CONNECT_S)
        except TimeoutError as error:
            raise ClusterLost(f"address={address}: the scheduler has no worker; start some, then {_GONE}") from error
        yield client
