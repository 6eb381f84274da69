"""The policy for samples that cannot be used: they are replaced, counted and logged, and too many stop the run."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from configs.schema_training import DataConfig
from data_shards.shards.bad_sample import BadKind, Report

log = logging.getLogger(__name__)

_LOGGED = 10  # bad samples that are logged one by one
_QUIET_S = 30.0  # seconds between two that are logged after these
_SHARDS = 10  # shards that a summary names


class TooManyBadSamples(ValueError):
    """More samples than `data.max_bad_*` allow could not be used. Every rank raises it in the same step."""


class Outcome(NamedTuple):
    """The samples of a step, or of a part of it, that one rank has loaded; n of them."""

    lanes: np.ndarray
    """int64 [n], lane of each sample."""
    positions: np.ndarray
    """int64 [n], its position in the lane."""
    replaced: np.ndarray
    """bool [n], True for samples that are replacements."""
    reports: list[Report]
    """The bad samples met."""


def joined(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the outcome of several parts of a step, in the order of lanes and positions.

    This order does not depend on the number of ranks.
    """
    lanes, positions, replaced = (np.concatenate([one[i] for one in outcomes]) for i in range(3))
    order = np.lexsort((positions, lanes))
    reports = [report for one in outcomes for report in one.reports]
    return Outcome(lanes[order], positions[order], replaced[order], reports)


class BadSampleCount:
    """A count of replaced samples over all ranks and all starts of a run. It stops the run past `data.max_bad_*`.

    It is the same on every rank, and the same for every number of ranks. `logs` is True on the rank that logs.
    """

    def __init__(self, config: DataConfig, logs: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        self.config, self._logs, self._clock = config, logs, clock
        self.read = self.replaced = self.streak = 0
        self.kinds: Counter[BadKind] = Counter()
        """Bad samples met, by kind. Samples that were tried as replacements count too."""
        self._met: Counter[BadKind] = Counter()  # by this process; so are all that follow
        self._shards: Counter[str] = Counter()
        self._hidden = self._summarised = 0
        self._quiet_until = 0.0

    def add(self, read: int, outcomes: Sequence[Outcome]) -> None:
        """Count a step.

        read: its samples over all ranks. outcomes: those of all ranks; none if no sample of the step was bad. Raises
        TooManyBadSamples past the limits.
        """
        self.read += read
        if not outcomes:
            self.streak = 0
            return
        step = joined(outcomes)
        self.replaced += int(step.replaced.sum())
        for report in step.reports:
            self.kinds[report.kind] += 1
            self._met[report.kind] += 1
            self._shards[report.shard] += 1
            self._log(report)
        self._check_streak(step)
        limit = max(self.config.max_bad_samples, self.config.max_bad_fraction * self.read)
        if self.replaced > limit:
            raise TooManyBadSamples(
                f"{self.replaced} of {self.read} samples could not be used, more than data.max_bad_samples="
                f"{self.config.max_bad_samples} and data.max_bad_fraction={self.config.max_bad_fraction}; "
                f"{_last(step.reports)}"
            )

    def restore(self, replaced: int, read: int, streak: int, kinds: Mapping[BadKind, int]) -> None:
        """Go on from the counts of an earlier process."""
        self.replaced, self.read, self.streak, self.kinds = replaced, read, streak, Counter(kinds)

    @property
    def summary(self) -> str:
        """A line on all bad samples since this start of the run; "" if there were none."""
        if not self._met:
            return ""
        kinds = ", ".join(f"{kind} {count}" for kind, count in self._met.most_common())
        shards = [f"{shard} {count}" for shard, count in self._shards.most_common(_SHARDS)]
        more = [f"and {len(self._shards) - _SHARDS} more"] if len(self._shards) > _SHARDS else []
        where = f"{len(self._shards)} shard{'s' if len(self._shards) > 1 else ''}"
        return f"bad samples: {self._met.total()} ({kinds}) in {where}: {', '.join(shards + more)}"

    def close(self) -> None:
        """Log the summary, if it has changed."""
        if self._logs and self._met.total() > self._summarised:
            self._summarised = self._met.total()
            log.warning("%s", self.summary)

    def _log(self, report: Report) -> None:
        """Log a bad sample, unless too many were logged already and the last one not long ago."""
        number, now = self._met.total(), self._clock()
        if not self._logs:
            return
        if number > _LOGGED and now < self._quiet_until:
            self._hidden += 1
            return
        hidden = f" ({self._hidden} more since the last such line)" if self._hidden else ""
        log.warning("bad sample %d, replaced: %s%s", number, report, hidden)
        self._hidden, self._quiet_until = 0, now + _QUIET_S

    def _check_streak(self, step: Outcome) -> None:
        for bad in step.replaced.tolist():
            self.streak = self.streak + 1 if bad else 0
            if self.streak >= self.config.max_bad_streak:
                raise TooManyBadSamples(
                    f"{self.streak} samples in a row could not be used, as many as data.max_bad_streak allows; "
                    f"{_last(step.reports)}"
                )


def _last(reports: list[Report]) -> str:
    return f"the last: {reports[-1]}; see ./run.sh shards validate shards={reports[-1].shard}"
