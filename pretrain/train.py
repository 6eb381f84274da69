"""Entry point of every rank: `deepspeed --no_local_rank --module pretrain.train key=value ...`."""

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

if __name__ == "__main__":  # an interrupt during the imports, which take seconds, ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import psutil  # type: ignore[import-untyped]
import torch

from configs.checks.run import check
from configs.command import told
from configs.compose import compose_pretrain
from configs.output.lines import prepare_lines, say
from configs.schema import PretrainConfig
from pretrain.engine import distributed
from pretrain.launching import exits
from pretrain.launching.interfaces import check_interfaces
from pretrain.launching.processes import lives
from pretrain.loop import pretrain
from pretrain.run_directory import lock, lock_text, sees_lock

_MEMORY_WORDS = ("can't allocate memory", "not enough memory", "size calculation overflow", "multiplication overflow")
"""Words in torch's RuntimeError for a tensor that is larger than memory. It has no error class for it on CPUs."""
ALONE_S = 5.0  # seconds after which the launcher has surely noticed that rank 0 has ended


def main(overrides: list[str]) -> None:
    """Train, and end the process with a code of `pretrain.launching.exits`.

    A user's mistake or a stopped run is reported in one line, a bug with its traceback. In each case the launcher ends
    the other ranks.
    """
    exits.signal_on_end_of(os.getppid(), signal.SIGTERM)  # the parent is the launcher
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _keep_log_readable()
    try:
        finished = _train(overrides)
    except KeyboardInterrupt:  # before the handlers of notices were installed
        exits.leave(exits.STOPPED)
    except Exception as error:
        _fail(error)
    sys.stdout.flush()
    exits.leave(exits.DONE if finished else exits.STOPPED)  # skips the destructors of CUDA, NCCL and gloo


def _train(overrides: list[str]) -> bool:
    """Compose and check the configuration, lock the run directory, and train; False if a notice has stopped the run."""
    config = compose_pretrain(overrides)
    check_interfaces(os.environ, torch.cuda.is_available())
    device = distributed.start(chosen_port=_chose_port(config))
    check(config, distributed.world())
    held = _lock_run_directory(config)
    finished = pretrain(config, device)
    distributed.barrier()  # the first rank to leave makes the launcher end the others
    if held:
        held.close()
    return finished


def _chose_port(config: PretrainConfig) -> bool:
    """True if the port of the rendezvous is the user's choice, or a fixed one; False if the launcher found it free."""
    return bool(config.launch.port) or config.cluster.kind != "local"


def _lock_run_directory(config: PretrainConfig) -> IO[str] | None:
    """Lock the run directory on rank 0. If that fails, every rank raises rank 0's ValueError."""
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
    _check_one_folder(Path(config.run.dir))
    return held


def _check_one_folder(folder: Path) -> None:
    """Raise ValueError, on every rank, if ranks do not see the lock of rank 0: their `run.dir` is another folder."""
    text = distributed.broadcast(lock_text(folder))
    seen = distributed.gather(sees_lock(folder, text))
    blind = [str(rank) for rank, sees in enumerate(seen) if not sees]
    if blind:
        raise ValueError(
            f"run.dir={folder} is another folder for rank {', '.join(blind)} than for rank 0: "
            "give an absolute path on a file system that all nodes share"
        )


def _fail(error: Exception) -> NoReturn:
    """Report the error and end this process at once, even if other ranks wait for it in a collective.

    Rank 0 reports first, and its end makes the launcher end the others: an error of every rank is reported once. An
    error of another rank alone is reported ALONE_S later by that rank, for which rank 0 still waits. PeerLost is also
    reported only then, and not at all if its cause is on this node and has been reported.
    """
    error = _out_of_memory(error) or error
    lost = distributed.peer_lost(error)
    code, rank = exits.code_of(lost or error), distributed.rank() or int(os.environ.get("RANK", "0"))
    exits.note(code)  # first, because the launcher may end this process while it sleeps
    for number in exits.SIGNALS:  # a handler of notices would outlast the launcher's
        signal.signal(number, signal.SIG_DFL)
    if code == exits.FAILED and not isinstance(error, OSError):
        say("".join(traceback.format_exception(error)).rstrip("\n"))
        exits.leave(code)
    if rank or lost:
        time.sleep(ALONE_S)
    if lost and _peer_ended_here():
        exits.leave(code)
    where = f"error (rank {rank})" if rank else "error"
    say("\n".join(f"{where}: {line}" for line in told(lost or error).splitlines()))
    exits.leave(code)


def _peer_ended_here() -> bool:
    """True if another rank of this node has ended. It has said why, or the supervisor says that it was killed."""
    ranks = [rank for rank in psutil.Process(os.getppid()).children() if lives(rank)]
    return exits.NOTES in os.environ and len(ranks) < int(os.environ.get("LOCAL_SIZE", "0"))


def _out_of_memory(error: Exception) -> ValueError | None:
    """ValueError with a remedy for an error of torch or Python that says that memory does not suffice, else None."""
    by_text = isinstance(error, RuntimeError) and any(words in str(error) for words in _MEMORY_WORDS)
    if not by_text and not isinstance(error, MemoryError | torch.OutOfMemoryError):
        return None
    return ValueError(
        "memory does not suffice: lower batch.micro, use a smaller model or more ranks with deepspeed=zero3, or set "
        f"model.activation_checkpointing=true ({' '.join(str(error).split())[:200]})"
    )


def _report_thread_error(failed: threading.ExceptHookArgs) -> None:
    """Ignore OSError in threads: the thread's owner reports it, as `reporting.tensorboard` does."""
    if not isinstance(failed.exc_value, OSError):
        say("".join(traceback.format_exception(failed.exc_value)).rstrip("\n"))


def _keep_log_readable() -> None:
    """Log our warnings and DeepSpeed's errors, without its notes about each flattened group."""
    prepare_lines()
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    threading.excepthook = _report_thread_error
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")


if __name__ == "__main__":
    main(sys.argv[1:])
