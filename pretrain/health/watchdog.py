"""Watchdog of a rank: ends the run if start, step, save or probe hangs, and writes all ranks' stacks to RUN/hangs."""

from __future__ import annotations

import contextlib
import copy
import faulthandler
import os
import platform
import threading
import time
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Literal

from configs.output.lines import say
from configs.schema_running import WatchdogConfig
from pretrain.engine import distributed
from pretrain.launching import exits

Phase = Literal["start", "data", "step", "save", "probe"]

TICK_S = 0.5
LOOK_S = 2.0
"""Seconds between two checks for stacks of other ranks."""
GRACE_S = 6.0
"""Seconds from writing this rank's stacks to its end. Meanwhile the other ranks see them and write theirs."""
FOLDER = "hangs"

_PHASE_TEXTS = {
    "start": "the start has taken {seconds:.0f} s",
    "data": "step {next} has waited {seconds:.0f} s for its data",
    "step": "step {next} has taken {seconds:.0f} s, waiting for other ranks included",
    "save": "the checkpoint of step {steps} has taken {seconds:.0f} s to write",
    "probe": "the probe at step {steps} has not got on for {seconds:.0f} s",
}


class Watchdog:
    """Times the phases of a rank, and ends the process with STALLED if one exceeds its limit.

    It runs in threads, because the main thread may hang in C code. The clock's thread never touches the disk, which may
    itself be the cause.
    """

    def __init__(self, folder: Path, config: WatchdogConfig, rank: int) -> None:
        self.current: _Watch | None = None
        """Current phase of the main thread; None between phases."""
        self._folder, self._config, self._rank = folder / FOLDER, config, rank
        self._own = f"_rank_{rank:05d}.txt"
        self._before = self._names()
        self._waited = 0.0
        self._closed = threading.Event()
        for function in (self._clock, self._lookout):
            threading.Thread(target=function, daemon=True, name=f"watchdog{function.__name__}").start()

    def watch(self, phase: Phase, seconds: float, steps: int) -> AbstractContextManager[None]:
        """Context manager for a phase of the step after `steps`. seconds: its limit, 0 for none.

        An error that shows that another rank or the network is gone leaves the context as PeerLost with the step.
        """
        return _Watch(self, phase, seconds, steps)

    def restart(self) -> None:
        """Time the current phase anew, because it has got on."""
        self.current = copy.copy(self.current)

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _clock(self) -> None:
        """Sum up ticks instead of comparing times, so that the suspension of a whole job does not count."""
        seen, before = self.current, time.monotonic()
        while not self._closed.wait(TICK_S):
            now, watch = time.monotonic(), self.current
            self._waited = self._waited + min(now - before, 2 * TICK_S) if watch is seen else 0.0
            seen, before = watch, now
            if watch and 0 < watch.seconds <= self._waited:
                self._end(watch)

    def _end(self, watch: _Watch) -> None:
        """Report the phase, write the stacks, and end the process even if neither succeeds."""
        exits.note(exits.STALLED)
        for function in (self._say, self._dump):
            with contextlib.suppress(RuntimeError):  # no more threads
                threading.Thread(target=function, args=(self._describe(watch),), daemon=True).start()
        time.sleep(GRACE_S)
        exits.leave(exits.STALLED)

    def _describe(self, watch: _Watch) -> str:
        text = _PHASE_TEXTS[watch.phase].format(next=watch.steps + 1, steps=watch.steps, seconds=self._waited)
        return f"{text} (watchdog.{watch.phase}_s)"

    def _say(self, what: str) -> None:
        stacks = f"stacks of every rank are in {self._folder}"
        again = "start it again: it resumes from its last checkpoint"
        say(f"error (rank {self._rank}): {what}; {stacks}; {again}")

    def _dump(self, what: str) -> None:
        """Write the stacks of all threads to a file, or to standard error if that fails."""
        now = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
        head = f"rank {self._rank}, process {os.getpid()} on {platform.node()}, {now}\n{what}\n\n"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / f"{now}{self._own}").open("w", encoding="utf-8") as file:
                file.write(head)
                file.flush()
                faulthandler.dump_traceback(file)
        except OSError as error:
            say(f"{self._folder} cannot be written ({error}): {head}")
            faulthandler.dump_traceback(2)

    def _lookout(self) -> None:
        """Write the stacks of this rank, once, if another rank has written its own."""
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
    """Context manager of a phase. Within another phase, it is timed and the outer one is not."""

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
