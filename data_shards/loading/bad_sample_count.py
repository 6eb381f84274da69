"""The policy for samples that cannot be used: they are replaced, counted and logged, and too many stop the run."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

import numpy as np

from configs.schema_training import DataConfig
from data_shards.shards.bad_sample import BadKind, Report

log = logging.getLogger(__name__)

_LOGGED = 10  # bad samples that are logged one by one
_QUIET_S = 30.0  # seconds between two that are logged after these
_SHARDS = 10  # shards that a summary names


class BadSampleCount:
    """A count of replaced samples, which logs some of them and stops the run past `data.max_bad_*`.

    `read` and `replaced` may continue the counts of an earlier process. Kinds and shards are counted in this process.
    """

    def __init__(self, config: DataConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.config, self._clock = config, clock
        self.read = self.replaced = 0
        self.kinds: Counter[BadKind] = Counter()
        """Bad samples met by this process, by kind. Samples that were tried as replacements count too."""
        self._shards: Counter[str] = Counter()
        self._streak = self._hidden = self._summarised = 0
        self._quiet_until = 0.0

    def add(self, replaced: np.ndarray, reports: list[Report]) -> None:
        """Count one consumed micro-batch.

        replaced: bool [B], True for replacements. reports: the bad samples met. Raises ValueError past the limits.
        """
        self.read += len(replaced)
        self.replaced += int(replaced.sum())
        for report in reports:
            self.kinds[report.kind] += 1
            self._shards[report.shard] += 1
            self._log(report)
        self._check_streak(replaced, reports)
        limit = max(self.config.max_bad_samples, self.config.max_bad_fraction * self.read)
        if reports and self.replaced > limit:
            raise ValueError(
                f"{self.replaced} of {self.read} samples could not be used, more than data.max_bad_samples="
                f"{self.config.max_bad_samples} and data.max_bad_fraction={self.config.max_bad_fraction}; "
                f"{_last(reports)}"
            )

    @property
    def summary(self) -> str:
        """A line on all bad samples that this process met; "" if there were none."""
        if not self.kinds:
            return ""
        kinds = ", ".join(f"{kind} {count}" for kind, count in self.kinds.most_common())
        shards = [f"{shard} {count}" for shard, count in self._shards.most_common(_SHARDS)]
        more = [f"and {len(self._shards) - _SHARDS} more"] if len(self._shards) > _SHARDS else []
        where = f"{len(self._shards)} shard{'s' if len(self._shards) > 1 else ''}"
        return f"bad samples: {self.kinds.total()} ({kinds}) in {where}: {', '.join(shards + more)}"

    def close(self) -> None:
        """Log the summary, if it has changed."""
        if self.kinds.total() > self._summarised:
            self._summarised = self.kinds.total()
            log.warning("%s", self.summary)

    def _log(self, report: Report) -> None:
        """Log a bad sample, unless too many were logged already and the last one not long ago."""
        number, now = self.kinds.total(), self._clock()
        if number > _LOGGED and now < self._quiet_until:
            self._hidden += 1
            return
        hidden = f" ({self._hidden} more since the last such line)" if self._hidden else ""
        log.warning("bad sample %d, replaced: %s, %s: %s%s", number, report.shard, report.sample, report.reason, hidden)
        self._hidden, self._quiet_until = 0, now + _QUIET_S

    def _check_streak(self, replaced: np.ndarray, reports: list[Report]) -> None:
        for bad in replaced.tolist():
            self._streak = self._streak + 1 if bad else 0
            if self._streak >= self.config.max_bad_streak:
                raise ValueError(
                    f"{self._streak} samples in a row could not be used on this rank, as many as data.max_bad_streak "
                    f"allows; {_last(reports)}"
                )


def _last(reports: list[Report]) -> str:
    last = reports[-1]
    return f"the last: {last.shard}, {last.sample}: {last.reason}; see ./run.sh shards validate shards={last.shard}"
