"""Preemption: notices to stop at a rank, by SIGTERM, SIGINT, SIGUSR1 or the file RUN/STOP."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from pretrain.engine import distributed
from pretrain.launching import exits
from pretrain.launching.exits import Notices

LOOK_S = 1.0
"""Seconds between two checks for RUN/STOP."""

log = logging.getLogger(__name__)


class Preemption:
    """Notices to stop that this rank has received. All ranks agree on them at a step boundary, save, and stop.

    A second signal, more than AGAIN_S after the first, ends the process at once; the last checkpoint stays whole. Only
    rank 0 checks for RUN/STOP. It removes a file left from an earlier run.
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
        """True if this rank was signalled, or is rank 0 and has seen RUN/STOP."""
        return self._notices.first is not None or self._is_asked()

    @property
    def reason(self) -> str:
        """Description of the notice."""
        if first := self._notices.first:
            return f"notice to stop ({first.name})"
        return f"notice to stop ({self._file})" if self._asked else "notice to stop (at another rank)"

    def acknowledge(self) -> None:
        """Remove RUN/STOP on rank 0 once the notice has been acted on, so that the next start does not find it."""
        if self._reads_file:
            try:
                self._file.unlink(missing_ok=True)
            except OSError as error:  # the run has saved and stops all the same
                log.warning("%s cannot be removed (%s): remove it before the next start", self._file, error.strerror)

    def _is_asked(self) -> bool:
        if self._reads_file and not self._asked and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_S
            self._asked = self._file.exists()
        return self._asked
