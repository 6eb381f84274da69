"""How the processes of a run end: notices to stop, exit codes, and with whom a process ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import NoReturn

DONE = 0
"""The run has taken its steps."""
FAILED = 1
"""Something failed; a line or a traceback says what."""
MISTAKE = 2
"""A mistake on the command line or in the configuration: one line says which, and what to do."""
STOPPED = 75
"""Stopped by a notice (EX_TEMPFAIL of sysexits.h): start it again."""
STALLED = 76
"""Stood still, or lost a rank, a node or the network: start it again."""
HALTED = 77
"""Stopped by itself, for what it computed was worth nothing: starting it again will not help."""

TELLING = (MISTAKE, HALTED, FAILED, STOPPED, STALLED, DONE)
"""Of several ranks' codes the first of these is the run's: what the others say follows from it."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Notices to stop."""
AGAIN_S = 2.0
"""What comes sooner after a notice is the same one: launchers and timeout(1) pass on what the whole group has got."""
STOP_FILE = "STOP"
"""In the run directory: a notice to stop for whoever cannot send a signal."""
NOTES = "DATA2VEC_EXITS"
"""Environment variable: the file to which each process of a rank appends a line `PID CODE` as it ends."""

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class Notices:
    """Handlers of the notices to stop, for the main thread. One that comes AGAIN_S after the first calls `again`."""

    def __init__(self, again: Callable[[], object]) -> None:
        self.first: signal.Signals | None = None
        """The first signal, if there has been one."""
        self._again = again
        self._time = 0.0
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first, self._time = signal.Signals(number), now
        elif now - self._time > AGAIN_S:
            self._again()


def note(code: int) -> None:
    """Leave this process's code for the supervisor, if there is one: a launcher in between has its own."""
    path = os.environ.get(NOTES)
    if path:
        with contextlib.suppress(OSError), open(path, "a") as file:
            file.write(f"{os.getpid()} {code}\n")


def read_notes(path: Path) -> dict[int, int]:
    """The codes by process. Of several by one process the first counts, which is the cause of the others."""
    found: dict[int, int] = {}
    with contextlib.suppress(OSError):
        for process, code in (line.split() for line in path.read_text().splitlines()):
            found.setdefault(int(process), int(code))
    return found


def most_telling(codes: Iterable[int]) -> int:
    """The run's code of those of its ranks."""
    return min(codes, key=TELLING.index)


def leave(code: int) -> NoReturn:
    """End this process at once, whatever its other threads do."""
    note(code)
    os._exit(code)


def signal_on_end_of(parent: int, number: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent ends, however that ends, or now if it has ended."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)
