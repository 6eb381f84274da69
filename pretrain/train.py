"""The entry on every rank: `deepspeed --no_local_rank --module pretrain.train key=value ...`."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from pathlib import Path
from typing import IO, NoReturn

from configs.checks import check
from configs.compose import compose_pretrain
from configs.schema import PretrainConfig
from pretrain import distributed
from pretrain.guard import RunStopped
from pretrain.loop import pretrain
from pretrain.run_directory import lock

ALONE_S = 5.0  # seconds in which the launcher notices that rank 0 has ended
STOPPED = 75  # exit code of a run that a notice has stopped (EX_TEMPFAIL of sysexits.h): start it again


def main(overrides: list[str]) -> None:
    """Compose and check the configuration, take the run directory, train.

    A mistake of the user's is one line and exit code 2; what stops a run is one line and exit code 1; a bug shows its
    traceback. In each case the launcher ends the other ranks. A run stopped by a notice exits with 75.
    """
    _keep_log_readable()
    device = distributed.start()
    try:
        config = compose_pretrain(overrides)
        check(config, distributed.world())
        held = _take_run_directory(config)
        finished = pretrain(config, device)
    except ValueError as error:
        _fail(error, 2)
    except (OSError, RunStopped) as error:
        _fail(error, 1)
    distributed.barrier()
    if held:
        held.close()
    if not finished:
        sys.exit(STOPPED)


def _take_run_directory(config: PretrainConfig) -> IO[str] | None:
    """Rank 0 takes the run directory; where it cannot, every rank raises its ValueError."""
    held: IO[str] | None = None
    problem: object = None
    if distributed.rank() == 0:
        try:
            held = lock(Path(config.run.dir))
        except ValueError as error:
            problem = error
    problem = distributed.broadcast(problem)
    if isinstance(problem, ValueError):
        raise problem
    return held


def _fail(error: Exception, code: int) -> NoReturn:
    """Say what is wrong and end this process at once: a rank that waits in a collective must not hold it.

    What is wrong on every rank is said by rank 0, which makes the launcher end the others. What is wrong on another
    rank alone is said by that one, while rank 0 still waits for it.
    """
    rank = distributed.rank()
    if rank:
        time.sleep(ALONE_S)
    where = f"error (rank {rank})" if rank else "error"
    print("\n".join(f"{where}: {line}" for line in str(error).splitlines()), file=sys.stderr, flush=True)
    os._exit(code)


def _keep_log_readable() -> None:
    """Warnings of ours and errors of DeepSpeed's; not its notes about each flattened group."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")


if __name__ == "__main__":
    main(sys.argv[1:])
