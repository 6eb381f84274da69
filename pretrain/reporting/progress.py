"""How far the run is: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from tqdm import tqdm


class Progress:
    """Loss, rate and time left, on standard error of rank 0; `enabled=False` shows nothing but what is said.

    first_step: steps already taken; steps: where the run stops; every_s: least seconds between lines of a log file.
    """

    def __init__(
        self, first_step: int, steps: int, enabled: bool = True, every_s: float = 10.0, stream: TextIO | None = None
    ) -> None:
        self._stream = stream or sys.stderr
        self._first, self._steps, self._every_s = first_step, steps, every_s
        self._start = time.monotonic()
        self._printed = -float("inf")
        self._lines = enabled and not self._stream.isatty()
        bar = enabled and not self._lines
        self._bar = (
            tqdm(total=steps, initial=first_step, unit="step", file=self._stream, dynamic_ncols=True) if bar else None
        )

    def update(self, step: int, loss: float, samples_per_s: float) -> None:
        """Show that `step` steps are done. The last step is always shown."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.4f}, {samples_per_s:.1f} samples/s", refresh=False)
            self._bar.update(step - self._bar.n)
        now = time.monotonic()
        if self._lines and (step == self._steps or now - self._printed >= self._every_s):
            self._printed = now
            rate, left = f"{samples_per_s:.1f} samples/s", self._left(step, now)
            self.say(f"step {step}/{self._steps}, loss {loss:.4f}, {rate}, {left} left")

    def say(self, text: str) -> None:
        """Print a line without tearing the bar."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the bar as it stands; a second call does nothing."""
        if self._bar is not None:
            self._bar.close()

    def _left(self, step: int, now: float) -> str:
        """Time left at the mean rate since this process began, as h:mm:ss."""
        per_step = (now - self._start) / max(step - self._first, 1)
        return tqdm.format_interval(per_step * (self._steps - step))


class BytesBar:
    """How much of something is read: a bar on a terminal, in a log a line at the begin and every ten seconds."""

    def __init__(self, title: str, total: int, shown: bool) -> None:
        self._title, self._total, self._done = title, total, 0
        self._lines = shown and not sys.stderr.isatty()
        self._bar = tqdm(
            total=total, desc=title, unit="B", unit_scale=True, unit_divisor=1024, disable=not shown or self._lines
        )
        self._printed = time.monotonic()
        if self._lines:
            print(f"{title}, {tqdm.format_sizeof(total, 'B', 1024)}", file=sys.stderr, flush=True)

    def update(self, size: int) -> None:
        """So many bytes more."""
        self._done += size
        self._bar.update(size)
        if self._lines and time.monotonic() - self._printed >= 10:
            self._printed = time.monotonic()
            print(f"{self._title}: {self._done / max(self._total, 1):.0%}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()


@contextmanager
def bytes_bar(title: str, total: int, shown: bool) -> Iterator[BytesBar]:
    """A `BytesBar` that is closed at the end."""
    bar = BytesBar(title, total, shown)
    try:
        yield bar
    finally:
        bar.close()
