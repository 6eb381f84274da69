"""The entry on every rank: `deepspeed --no_local_rank --module pretrain.train key=value ...`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import IO, NoReturn

from configs.checks import check
from configs.compose import compose_pretrain
from configs.schema import PretrainConfig
from data_shards.loading.modality_loader import LoaderFailed
from pretrain.engine import distributed
from pretrain.health.guard import RunStopped
from pretrain.launching import exits
from pretrain.loop import pretrain
from pretrain.run_directory import lock

ALONE_S = 5.0  # seconds in which the launcher notices that rank 0 has ended


def main(overrides: list[str]) -> None:
    """Train, and end with a code of `pretrain.launching.exits`.

    A mistake of the user's and what stops a run are one line each; a bug shows its traceback. In each case the launcher
    ends the other ranks.
    """
    exits.signal_on_end_of(os.getppid(), signal.SIGTERM)  # of the launcher
    _keep_log_readable()
    try:
        finished = _train(overrides)
    except KeyboardInterrupt:  # before the handlers of notices are there
        exits.leave(exits.STOPPED)
    except Exception as error:
        _fail(error)
    sys.stdout.flush()
    exits.leave(exits.DONE if finished else exits.STOPPED)  # not through the destructors of CUDA, NCCL and gloo


def _train(overrides: list[str]) -> bool:
    """Compose and check the configuration, take the run directory, train; False where a notice has stopped the run."""
    device = distributed.start()
    config = compose_pretrain(overrides)
    check(config, distributed.world())
    held = _take_run_directory(config)
    finished = pretrain(config, device)
    distributed.barrier()  # whoever leaves first makes the launcher end the others
    if held:
        held.close()
    return finished


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


def _fail(error: Exception) -> NoReturn:
    """Say what is wrong and end this process at once: a rank that waits in a collective must not hold it.

    What is wrong on every rank is said by rank 0, which makes the launcher end the others. What is wrong on another
    rank alone is said by that one, while rank 0 still waits for it. That a rank is gone is said last.
    """
    lost = distributed.peer_lost(error)
    code, rank = _code_of(lost or error), distributed.rank()
    exits.note(code)  # now, for the launcher may end this process while it waits
    if code == exits.FAILED and not isinstance(error, OSError):
        traceback.print_exception(error)
        exits.leave(code)
    if rank or lost:
        time.sleep(ALONE_S)
    where = f"error (rank {rank})" if rank else "error"
    print("\n".join(f"{where}: {line}" for line in str(lost or error).splitlines()), file=sys.stderr, flush=True)
    exits.leave(code)


def _code_of(error: Exception) -> int:
    match error:
        case distributed.PeerLost() | LoaderFailed():
            return exits.STALLED
        case RunStopped():
            return exits.HALTED
        case ValueError():
            return exits.MISTAKE
        case _:
            return exits.FAILED


def _tell_of_thread(failed: threading.ExceptHookArgs) -> None:
    """A file that a thread cannot write is the business of who started it: pretrain.board tells of TensorBoard's."""
    if not isinstance(failed.exc_value, OSError):
        threading.__excepthook__(failed)


def _keep_log_readable() -> None:
    """Warnings of ours and errors of DeepSpeed's; not its notes about each flattened group."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    threading.excepthook = _tell_of_thread
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")


if __name__ == "__main__":
    main(sys.argv[1:])
