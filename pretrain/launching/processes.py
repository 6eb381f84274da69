"""Processes of a node: tests of their state, process groups, and kills."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path

import psutil  # type: ignore[import-untyped]


def lives(process: psutil.Process) -> bool:
    """True if a process exists and is not a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def listens(process: psutil.Process) -> bool:
    """True if a rank has installed its handlers of notices. Before that a signal would end it or be lost."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text("utf-8")
    except OSError:
        return False
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return bool(caught and int(caught[1], 16) >> (signal.SIGUSR1 - 1) & 1)


def group(identity: int) -> list[psutil.Process]:
    """Living processes of a process group."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError):
            if os.getpgid(process.pid) == identity and lives(process):
                found.append(process)
    return found


def kill(processes: list[psutil.Process]) -> None:
    """Send SIGKILL to each process."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


def kill_tree(process: psutil.Process) -> None:
    """Send SIGKILL to a process and all its descendants."""
    below: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        below = process.children(recursive=True)
    kill([process, *below])
