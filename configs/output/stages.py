"""Stages of a command: what it is doing, and for how long, so that no screen stands still."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from configs.output.lines import CLEAR, say
from configs.output.secrets import masked

WAIT_S = 2.0
"""Seconds that nothing is said on a terminal: shorter stages are not seen."""
TICK_S = 0.5
LOG_S = 10.0
"""Seconds between two lines in a log, and before the first."""

LOADING_TORCH = "loading torch"
"""Title of the seconds that its import takes."""

COLUMNS = 80

_open: list[object] = []
"""Everything that may write on the screen, innermost last: only the last one does."""
_seen: list[str] = []
"""Titles of all stages so far."""


@contextmanager
def on_screen(owner: object) -> Iterator[None]:
    """Keep the stages around quiet, because `owner`, a bar, shows what goes on."""
    _open.append(owner)
    try:
        yield
    finally:
        _open.remove(owner)


@contextmanager
def stage(title: str, shown: bool = True, stream: TextIO | None = None) -> Iterator[None]:
    """Tell on standard error, or on `stream`, that a stage goes on and since when.

    A terminal gets a line that ticks, once the stage takes 2 s; it is gone at the end. A log gets a line every 10 s.
    Stages and bars within the stage take its place. Lines printed meanwhile have to be those of `say`.
    """
    if not shown:
        yield
        return
    closed = threading.Event()
    owner, stream = object(), stream or sys.stderr
    ticker = threading.Thread(target=_tick, args=(title, stream, owner, closed), daemon=True, name="stage")
    with on_screen(owner):
        ticker.start()
        try:
            yield
        finally:
            closed.set()
            ticker.join()


def _tick(title: str, stream: TextIO, owner: object, closed: threading.Event) -> None:
    """Show the stage until it is closed."""
    begin = time.monotonic()
    quiet_since = begin if _seen else begin - WAIT_S  # the start of a process and its imports took a while already
    _seen.append(title)
    draws, drawn = stream.isatty(), False
    while not closed.wait(TICK_S if draws else LOG_S):
        now = time.monotonic()
        if _open[-1] is not owner:
            quiet_since, drawn = now, False
        elif draws and now - quiet_since >= WAIT_S:
            _write(stream, CLEAR + _fitted(f"{title}: {now - begin:.0f} s", stream))
            drawn = True
        elif not draws:
            say(f"{title}: {now - begin:.0f} s so far", stream)
    if drawn:
        _write(stream, CLEAR)


def _fitted(text: str, stream: TextIO) -> str:
    """The text's end, as much as one line of the terminal holds: what wraps could not be cleared."""
    return masked(text)[1 - (columns_of(stream) or COLUMNS) :]


def columns_of(stream: TextIO) -> int:
    """Return the columns of the terminal behind a stream; 0 if it has none, or does not know."""
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return 0


def _write(stream: TextIO, text: str) -> None:
    """Write at once; a stream that is closed loses the text."""
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError):
        pass
