"""The policy for samples that cannot be used: they are replaced, counted, logged, and too many of them stop the run."""

from __future__ import annotations

import logging

from configs.schema import DataConfig
from data_shards.reader import Report

log = logging.getLogger(__name__)

_LOGGED = 10  # bad samples that are logged one by one; then the 16th, 32nd, 64th ...


class BadSampleCount:
    """Counts replaced samples, logs some of them, and stops the run past `data.max_bad_*`."""

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self.read = self.replaced = self.reported = 0

    def add(self, read: int, replaced: int, reports: list[Report]) -> None:
        """Count one consumed micro-batch. ValueError past the limits."""
        self.read += read
        self.replaced += replaced
        for report in reports:
            self.reported += 1
            if self.reported <= _LOGGED or self.reported.bit_count() == 1:
                log.warning(
                    "bad sample %d, replaced: %s, %s: %s", self.reported, report.shard, report.sample, report.reason
                )
        limit = max(self.config.max_bad_samples, self.config.max_bad_fraction * self.read)
        if reports and self.replaced > limit:
            last = reports[-1]
            raise ValueError(
                f"{self.replaced} of {self.read} samples could not be used, more than data.max_bad_samples="
                f"{self.config.max_bad_samples} and data.max_bad_fraction={self.config.max_bad_fraction}; the last: "
                f"{last.shard}, {last.sample}: {last.reason}; see ./run.sh shards validate shards={last.shard}"
            )
