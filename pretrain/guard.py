"""When a run has to stop by itself: too many steps in a row without an update."""

from __future__ import annotations

import logging

from configs.schema import GuardConfig
from pretrain import distributed

log = logging.getLogger(__name__)


class RunStopped(RuntimeError):
    """The run stopped by itself; the message says why and what to do."""


class Guard:
    """Counts skipped steps in a row."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._in_a_row = 0

    def check(self, step: int, applied: bool) -> None:
        """Warn of a skipped step; RunStopped after `guard.max_skipped` in a row."""
        if applied:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        if distributed.rank() == 0:
            log.warning("step %d skipped: a gradient was not finite; weights, teacher and schedules stay", step)
        if self._in_a_row >= self._config.max_skipped:
            raise RunStopped(
                f"{self._in_a_row} steps in a row had non-finite gradients, the last was step {step}. Nothing was "
                "updated in them. Lower optimizer.lr, lengthen schedule.warmup, or try precision=fp32; "
                "guard.max_skipped sets how many are borne."
            )
