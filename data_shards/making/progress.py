"""How far a long command is, in bytes: a bar on a terminal, a line every half minute in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

from tqdm import tqdm

_REFRESH_S = 0.5
_LOG_S = 30.0


class Progress:
    """Shown until the `with` block ends; a thread of its own draws it, so that it moves while this one waits."""

    def __init__(self, title: str, total: int, shards: int, begun: Callable[[], int] = lambda: 0) -> None:
        """total: bytes; begun: bytes of the shards that are being worked at."""
        self._title, self._total, self._shards, self._begun = title, total, shards, begun
        self._first = self._bytes = self._finished = self._samples = 0
        self._start = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True, name="progress")

    def add(self, size: int, samples: int) -> None:
        """One shard more is done; before the `with` block: was done before, at no cost now."""
        self._bytes += size
        self._finished += 1
        self._samples += samples

    def __enter__(self) -> Progress:
        self._first = self._bytes
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def _counts(self) -> str:
        return f"shards {self._finished}/{self._shards}, {self._samples:,} samples"

    def _place(self) -> int:
        try:
            return min(self._total, self._bytes + self._begun())
        except OSError:
            return self._bytes

    def _show(self) -> None:
        if sys.stderr.isatty():
            self._draw()
            return
        while not self._ended.wait(_LOG_S):
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """Where it is, in words."""
        elapsed = time.monotonic() - self._start
        text = tqdm.format_meter(
            self._place(), self._total, elapsed, ncols=0, prefix=self._title, unit="B", unit_scale=True,
            unit_divisor=1024, postfix=self._counts, initial=self._first,
        )  # fmt: skip
        return text.strip()

    def _draw(self) -> None:
        with tqdm(
            total=self._total, initial=self._first, unit="B", unit_scale=True, unit_divisor=1024, desc=self._title
        ) as bar:
            while not self._ended.wait(_REFRESH_S):
                self._update(bar)
            self._update(bar)

    def _update(self, bar: tqdm) -> None:
        bar.set_postfix_str(self._counts, refresh=False)
        bar.n = self._place()
        bar.refresh()
