"""The watchdog of a rank: a step that stands still ends the run, and the stacks of all ranks are in RUN/hangs."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import platform
import sys
import threading
import time
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Literal

from configs.schema_running import WatchdogConfig
from pretrain.engine import distributed
from pretrain.launching import exits

Phase = Literal["data", "step", "save"]

TICK_S = 0.5
LOOK_S = 2.0
"""Between two looks for stacks of other ranks."""
GRACE_S = 6.0
"""From the stacks of this rank to its end: meanwhile the others see them and write theirs."""
FOLDER = "hangs"

_STANDS = {
    "data": "step {next} has waited {seconds:.0f} s for its data",
    "step": "step {next} has taken {seconds:.0f} s, waiting for other ranks included",
    "save": "the checkpoint of step {steps} has taken {seconds:.0f} s to write",
}


class Watchdog:
    """Times the phases of a rank's steps, and ends the process with STALLED when one exceeds its limit.

    Threads do that, for the main thread may stand in C code. The one with the clock never touches the disk: that may
    be what stands still.
    """

    def __init__(self, folder: Path, config: WatchdogConfig, rank: int) -> None:
        self.current: _Watch | None = None
        """The phase that the main thread is in."""
        self._folder, self._config, self._rank = folder / FOLDER, config, rank
        self._own = f"_rank_{rank:05d}.txt"
        self._before = self._names()
        self._waited = 0.0
        self._closed = threading.Event()
        for function in (self._clock, self._lookout):
            threading.Thread(target=function, daemon=True, name=f"watchdog{function.__name__}").start()

    def watch(self, phase: Phase, seconds: float, steps: int) -> AbstractContextManager[None]:
        """The main thread is in a phase of the step after `steps`; it may take `seconds`, 0 is no limit.

        An error that says that another rank or the network is gone leaves it as PeerLost with the step.
        """
        return _Watch(self, phase, seconds, steps)

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _clock(self) -> None:
        """Add up ticks, not times: what stops the whole process, as a suspended job is, does not count."""
        seen, before = self.current, time.monotonic()
        while not self._closed.wait(TICK_S):
            now, watch = time.monotonic(), self.current
            self._waited = self._waited + min(now - before, 2 * TICK_S) if watch is seen else 0.0
            seen, before = watch, now
            if watch and 0 < watch.seconds <= self._waited:
                self._end(watch)

    def _end(self, watch: _Watch) -> None:
        """Say what stands still, write the stacks, and end the process even if neither can be done."""
        exits.note(exits.STALLED)
        for function in (self._say, self._dump):
            with contextlib.suppress(RuntimeError):  # no more threads
                threading.Thread(target=function, args=(self._describe(watch),), daemon=True).start()
        time.sleep(GRACE_S)
        exits.leave(exits.STALLED)

    def _describe(self, watch: _Watch) -> str:
        text = _STANDS[watch.phase].format(next=watch.steps + 1, steps=watch.steps, seconds=self._waited)
        return f"{text} (watchdog.{watch.phase}_s)"

    def _say(self, what: str) -> None:
        stacks = f"stacks of every rank are in {self._folder}"
        again = "start it again: it resumes from its last checkpoint"
        print(f"error (rank {self._rank}): {what}; {stacks}; {again}", file=sys.stderr, flush=True)

    def _dump(self, what: str) -> None:
        """Write the stacks of all threads to a file, or where that fails to standard error."""
        now = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
        head = f"rank {self._rank}, process {os.getpid()} on {platform.node()}, {now}\n{what}\n\n"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / f"{now}{self._own}").open("w") as file:
                file.write(head)
                file.flush()
                faulthandler.dump_traceback(file)
        except OSError as error:
            print(f"{self._folder} cannot be written ({error}): {head}", file=sys.stderr, flush=True)
            faulthandler.dump_traceback(2)

    def _lookout(self) -> None:
        """Write the stacks of this rank as well, once, when another one stands still."""
        while not self._closed.wait(LOOK_S):
            new = {name for name in self._names() - self._before if not name.endswith(self._own)}
            if new:
                watch = self.current
                here = f"{watch.phase} of step {watch.steps + 1} since {self._waited:.0f} s" if watch else "no phase"
                self._dump(f"another rank stands still: {min(new)}; this one is in: {here}")
                return

    def _names(self) -> set[str]:
        try:
            return set(os.listdir(self._folder))
        except OSError:
            return set()


class _Watch:
    """A phase; inside another one it is timed in its place."""

    __slots__ = ("_outer", "_watchdog", "phase", "seconds", "steps")

    def __init__(self, watchdog: Watchdog, phase: Phase, seconds: float, steps: int) -> None:
        self._watchdog, self.phase, self.seconds, self.steps = watchdog, phase, seconds, steps

    def __enter__(self) -> None:
        self._outer, self._watchdog.current = self._watchdog.current, self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watchdog.current = self._outer
        if error and (lost := distributed.peer_lost(error, self.steps + 1)):
            raise lost from error
