"""Notices to stop, at a rank: SIGTERM, SIGINT and SIGUSR1, and the file RUN/STOP."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from pretrain.engine import distributed
from pretrain.launching import exits
from pretrain.launching.exits import Notices

LOOK_S = 1.0
"""Between two looks for RUN/STOP."""

log = logging.getLogger(__name__)


class Preemption:
    """Whether this rank has had notice to stop. All ranks agree on it at a step boundary, save, and stop.

    A second signal, AGAIN_S after the first, ends the process at once: the last checkpoint stays whole. Rank 0 alone
    looks for RUN/STOP, and removes one that is left from before.
    """

    def __init__(self, run_dir: Path) -> None:
        self._notices = Notices(lambda: exits.leave(exits.STOPPED))
        self._file = run_dir / exits.STOP_FILE
        self._reads_file = distributed.rank() == 0
        self._asked = False
        self._look_at = 0.0
        if self._reads_file and self._file.exists():
            log.warning("%s was there before the run began: removed", self._file)
            self._file.unlink(missing_ok=True)

    @property
    def noticed(self) -> bool:
        """Whether this rank was signalled, or as rank 0 has seen RUN/STOP."""
        return self._notices.first is not None or self._is_asked()

    @property
    def reason(self) -> str:
        """The notice, for the message."""
        if first := self._notices.first:
            return f"notice to stop ({first.name})"
        return f"notice to stop ({self._file})" if self._asked else "notice to stop (at another rank)"

    def acknowledge(self) -> None:
        """The notice has been acted on: rank 0 removes RUN/STOP, or the next start would have to."""
        if self._reads_file:
            self._file.unlink(missing_ok=True)

    def _is_asked(self) -> bool:
        if self._reads_file and not self._asked and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_S
            self._asked = self._file.exists()
        return self._asked
