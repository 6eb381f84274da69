"""Ends of a run's processes: notices to stop, exit codes, and the signal at the end of a parent."""

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

from configs import command
from configs.command import FAILED as FAILED
from configs.command import MISTAKE as MISTAKE
from configs.command import STALLED as STALLED

DONE = 0
"""The run has taken all its steps."""
STOPPED = 75
"""A notice stopped the run (EX_TEMPFAIL of sysexits.h). Start it again."""
HALTED = 77
"""The run stopped because its results were useless. Starting it again will not help."""

PRECEDENCE = (MISTAKE, HALTED, FAILED, STOPPED, STALLED, DONE)
"""Precedence of exit codes: the first that any rank left is the run's, since the others follow from it."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Signals that are notices to stop."""
AGAIN_S = 2.0
"""Seconds within which a further signal is the same notice: launchers forward what the whole group has received."""
STOP_FILE = "STOP"
"""File in the run directory that is a notice to stop, for users who cannot send a signal."""
NOTES = "DATA2VEC_EXITS"
"""Environment variable: the file to which each process of a rank appends a line `PID CODE` as it ends."""

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class Halted(RuntimeError):
    """A run has stopped because its results are useless."""


def code_of(error: BaseException) -> int:
    """Exit code of a run that ends with this error; those of other commands are in `configs.command`."""
    match error:
        case Halted():
            return HALTED
        case KeyboardInterrupt():
            return STOPPED
        case _:
            return command.code_of(error)


class Notices:
    """Handlers of the notices to stop, installed from the main thread.

    A signal later than AGAIN_S after the first one calls `again`.
    """

    def __init__(self, again: Callable[[], object]) -> None:
        self.first: signal.Signals | None = None
        """First signal received; None before it."""
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


def raise_at_notices() -> None:
    """Make each notice to stop raise KeyboardInterrupt in the main thread, where there is nothing to save yet."""
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)


def note(code: int) -> None:
    """Record this process's code for the supervisor, if there is one. The launcher between them has its own codes."""
    path = os.environ.get(NOTES)
    if path:
        with contextlib.suppress(OSError), open(path, "a", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {code}\n")


def read_notes(path: Path) -> dict[int, int]:
    """Exit code by process id. The first code of a process counts: it is the cause of later ones."""
    found: dict[int, int] = {}
    with contextlib.suppress(OSError):
        for process, code in (line.split() for line in path.read_text("utf-8").splitlines()):
            found.setdefault(int(process), int(code))
    return found


def run_code(codes: Iterable[int]) -> int:
    """Exit code of a run whose ranks left `codes`."""
    return min(codes, key=PRECEDENCE.index)


def leave(code: int) -> NoReturn:
    """End this process at once, without waiting for its other threads."""
    note(code)
    os._exit(code)


def signal_on_end_of(parent: int, number: signal.Signals) -> None:
    """Have the kernel send this process a signal when `parent` ends for any reason; send it now if it has ended."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)
