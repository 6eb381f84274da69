"""Job of a node: the launcher of its ranks, and its start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pretrain.launching import exits


@dataclass(frozen=True)
class Job:
    """Processes that this node starts for a run."""

    command: list[str]
    """Command of DeepSpeed's launcher."""
    environment: dict[str, str]
    """Environment of the launcher and of its ranks."""
    run: Path
    """Run directory."""
    ranks: int
    """Ranks that the launcher starts as its children. 0: the ranks are on other nodes, and see only RUN/STOP."""
    last_checkpoint: Callable[[], str]
    """Names in words the checkpoint from which the run would resume."""
    slurm: str = ""
    """Slurm job to requeue after a signal has stopped the run; "" for none."""
    shown: bool = True
    """Show that the ranks are starting, until they listen to notices."""


def start(job: Job, notes: Path) -> subprocess.Popen[bytes]:
    """Start the launcher in a process group of its own.

    The kernel sends it SIGTERM when this process is killed. The launcher passes that on to its ranks as a notice.
    """
    parent = os.getpid()

    def prepare() -> None:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number in (signal.SIGUSR1, signal.SIGINT):  # some senders signal every process; the ranks handle these
            signal.signal(number, signal.SIG_IGN)
        exits.signal_on_end_of(parent, signal.SIGTERM)

    sys.stdout.flush()
    environment = {**job.environment, exits.NOTES: str(notes)}
    return subprocess.Popen(job.command, env=environment, stdin=subprocess.DEVNULL, preexec_fn=prepare)
