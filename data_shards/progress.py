"""Progress of a long command: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

from configs.output.lines import say
from configs.output.stages import COLUMNS, columns_of, on_screen

_REFRESH_S = 0.5
_SHARDS_LINE_S = 30.0
_BYTES_LINE_S = 10.0

Line = Callable[["Progress"], str]
"""Text of a line in a log."""


class Progress:
    """Shown from `open` to `close`, or as a context manager; on standard error, unless `stream` is given.

    total, unit, title: of the bar and of the lines. line: makes the text of a line in a log. wait_s: seconds before the
    first line. every_s: least seconds between lines. done: units done before `open`; the rate leaves them out.
    shown: False shows only the texts of `say`. shards: number of shards to `add`. begun: units of shards that are not
    finished. A thread moves the bar's clock, and shows shards in a log too, while the caller waits.
    """

    def __init__(
        self,
        total: int,
        unit: str,
        line: Line,
        *,
        title: str | None = None,
        every_s: float,
        wait_s: float = 0.0,
        done: int = 0,
        shown: bool = True,
        shards: int = 0,
        begun: Callable[[], int] = lambda: 0,
        stream: TextIO | None = None,
    ) -> None:
        self.total, self.unit, self.title, self.done, self.first = total, unit, title, done, done
        self.facts = ""
        """Words behind the bar."""
        self._line, self._every_s, self._begun = line, every_s, begun
        self._stream = stream or sys.stderr
        self._start = time.monotonic()
        self._print_at = self._start + wait_s
        self._draws = shown and self._stream.isatty()
        self.prints = shown and not self._draws
        """True if lines are printed, because there is no terminal."""
        self._bar: tqdm | None = None
        self._lock, self._screen = threading.Lock(), ExitStack()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._show_until_closed, daemon=True, name="progress")
        self._shards, self._finished, self._samples = shards, 0, 0
        if shards:
            self.add(0, 0, 0)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def place(self) -> int:
        """Units done, those of unfinished work included; at most `total`."""
        try:
            return min(self.total, self.done + self._begun())
        except OSError:
            return self.done

    def open(self) -> Progress:
        """Begin to show, and return itself."""
        self.first = self.done
        if self._draws:
            in_bytes: dict[str, Any] = {"unit_scale": True, "unit_divisor": 1024}
            style = in_bytes if self.unit == "B" else {"dynamic_ncols": True}
            if not columns_of(self._stream):  # a terminal that does not know its size, where tqdm draws nothing
                style = {**style, "dynamic_ncols": False, "ncols": COLUMNS}
            self._bar = tqdm(
                total=self.total, initial=self.first, unit=self.unit, desc=self.title, file=self._stream, **style
            )
            self._screen.enter_context(on_screen(self))
        if self._shards or self._draws:
            self._thread.start()
        return self

    def close(self) -> None:
        """Leave the bar as it stands. A second call does nothing."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._bar is not None:
            self._bar.close()
        self._screen.close()

    def update(self, done: int, facts: str = "") -> None:
        """Show that `done` units are done."""
        self.done, self.facts = done, facts
        if self._bar is not None:
            with self._lock:
                self._bar.set_postfix_str(facts, refresh=False)
                self._bar.update(done - self._bar.n)
        if self.prints and time.monotonic() >= self._print_at:
            self.postpone()
            self.say(self._line(self))

    def postpone(self) -> None:
        """Print the next line in a log as if one had just been printed: the caller has said what it says."""
        self._print_at = time.monotonic() + self._every_s

    def advance(self, units: int) -> None:
        """Show that `units` more are done."""
        self.update(self.done + units)

    def add(self, units: int, samples: int, shards: int = 1) -> None:
        """Count a finished shard. Before `open`: an earlier call finished it."""
        self.done, self._samples, self._finished = self.done + units, self._samples + samples, self._finished + shards
        self.facts = f"shards {self._finished}/{self._shards}, {self._samples:,} samples"

    def say(self, text: str) -> None:
        """Print a line without tearing the bar."""
        say(text, self._stream)

    def _show_until_closed(self) -> None:
        while not self._closed.wait(_REFRESH_S if self._draws else self._every_s):
            self._show()
        if self._draws:
            self._show()

    def _show(self) -> None:
        if self._bar is not None:
            with self._lock:
                self._bar.set_postfix_str(self.facts, refresh=False)
                self._bar.n = self.place
                self._bar.refresh()
        else:
            self.say(self._line(self))

    def __enter__(self) -> Progress:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def shards_progress(title: str, total: int, shards: int, begun: Callable[[], int] = lambda: 0) -> Progress:
    """Progress through `shards` shards of `total` bytes. A log gets a line every half minute."""
    return Progress(
        total, "B", _meter, title=title, every_s=_SHARDS_LINE_S, wait_s=_SHARDS_LINE_S, shards=shards, begun=begun
    )


def bytes_progress(title: str, total: int, shown: bool = True) -> Progress:
    """Progress through `total` bytes. A log gets a line at the start and every ten seconds."""
    progress = Progress(total, "B", _percent, title=title, every_s=_BYTES_LINE_S, wait_s=_BYTES_LINE_S, shown=shown)
    if progress.prints:
        progress.say(f"{title}, {tqdm.format_sizeof(total, 'B', 1024)}")
    return progress


def samples_progress(title: str, total: int) -> Progress:
    """Progress through `total` samples. A log gets a line every ten seconds."""
    return Progress(total, "sample", _percent, title=title, every_s=_BYTES_LINE_S, wait_s=_BYTES_LINE_S)


def steps_progress(
    first: int, total: int, shown: bool = True, every_s: float = 10.0, stream: TextIO | None = None
) -> Progress:
    """Progress of a run that stops at step `total` and has taken `first` steps before; already open."""
    return Progress(total, "step", _step, every_s=every_s, done=first, shown=shown, stream=stream).open()


def _meter(progress: Progress) -> str:
    text = tqdm.format_meter(
        progress.place, progress.total, progress.seconds, ncols=0, prefix=progress.title, unit=progress.unit,
        unit_scale=True, unit_divisor=1024, postfix=progress.facts, initial=progress.first,
    )  # fmt: skip
    return text.strip()


def _percent(progress: Progress) -> str:
    return f"{progress.title}: {progress.done / max(progress.total, 1):.0%}"


def _step(progress: Progress) -> str:
    """Step, facts, and the time left at the mean rate since the start."""
    per_step = progress.seconds / max(progress.done - progress.first, 1)
    left = tqdm.format_interval(per_step * (progress.total - progress.done))
    return f"step {progress.done}/{progress.total}, {progress.facts}, {left} left"
