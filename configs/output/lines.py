"""Lines on standard error, beside the bar of this process or another, in any locale and without credentials."""

from __future__ import annotations

import contextlib
import io
import logging
import signal
import sys
import threading
import traceback
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

from configs.output.secrets import masked

CLEAR = "\r\033[K"
"""Begins a line over the bar of another process on this terminal; its next refresh draws it again below."""


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line on standard error, or on `stream`. One that is closed loses the line."""
    stream = stream or sys.stderr
    with contextlib.suppress(OSError):
        line = (CLEAR if stream.isatty() else "") + masked(text) + "\n"
        tqdm.write(line, file=stream, end="")  # in one piece, and above the bar of this process
        stream.flush()


class _LineHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


def prepare_lines() -> None:
    """Make logs, warnings and tracebacks of this process lines as `say` prints them, and Ctrl-C an exception.

    run.sh lets Ctrl-C end a process during its imports. Characters that the locale cannot show become escapes such as
    \\xe9; they are no reason to fail.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", handlers=[_LineHandler()])
    logging.captureWarnings(True)
    sys.excepthook = _say_traceback
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _say_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    say("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"))
