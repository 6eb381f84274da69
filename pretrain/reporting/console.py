"""Lines about a run's steps for people: rows of figures, the time left, a hint if data bounds the run, its end."""

from __future__ import annotations

import math
import os
import shlex
import time
from collections import deque
from collections.abc import Iterator

from configs.schema import PretrainConfig
from data_shards.order.cursor import local_ranks
from pretrain.reporting.metrics import MetricsRow

FIRST_STEPS = 20
"""Steps after which the duration of a run is known."""
_WARM = 5
"""Steps at the start that are slower than the rest and do not count."""
_HEADER_EVERY = 25
"""Rows between two headers."""
_RECENT = 5
"""Rows whose time gives the rate of the steps to come."""
_BOUND = 0.25
"""Share of a step's time, waited for data, from which data bounds a run."""
_COLUMNS = {
    "step": 17, "epoch": 7, "loss": 10, "lr": 10, "target std": 12, "grad norm": 11, "samples/s": 11, "data wait": 11,
    "memory": 12, "left": 11,
}  # fmt: skip
"""Columns of a row, with their widths."""


def duration(seconds: float) -> str:
    """Return a duration in the unit that fits it."""
    for unit, length, most in (("s", 1, 90), ("min", 60, 90), ("hours", 3600, 48)):
        if seconds < most * length:
            return f"{seconds / length:.{0 if seconds >= 10 * length else 1}f} {unit}"
    return f"{seconds / 86400:.1f} days"


class FirstSteps:
    """The durations of the first steps that this start of a run takes."""

    def __init__(self) -> None:
        self._seconds: list[float] = []

    def expected(self, seconds: float, left: int) -> str | None:
        """Count a step; return a line with the time that the `left` steps to come will take, once, when it is known."""
        if len(self._seconds) < FIRST_STEPS:
            self._seconds.append(seconds)
            if len(self._seconds) == FIRST_STEPS and left:
                each = sum(self._seconds[_WARM:]) / len(self._seconds[_WARM:])
                return f"a step takes {each:.3g} s: about {duration(each * left)} for {left:,} more steps"
        return None


class Console:
    """The rows of a run on the screen, from its first step of this start on."""

    def __init__(self, config: PretrainConfig, first_step: int, cores: int | None = None) -> None:
        """cores: of this node, for its ranks; None: those that this process may use."""
        self._config, self._rows = config, 0
        self._recent = deque([(time.monotonic(), first_step)], maxlen=_RECENT + 1)
        self._waits: deque[float] = deque(maxlen=3)
        self._hinted = False
        self._cores = cores or len(os.sched_getaffinity(0))

    def lines(self, row: MetricsRow) -> Iterator[str]:
        """Yield a header now and then, the row, and once the hint."""
        if self._rows % _HEADER_EVERY == 0:
            yield "".join(f"{name:>{width}}" for name, width in _COLUMNS.items()).rstrip()
        self._rows += 1
        self._recent.append((time.monotonic(), row.step))
        yield "".join(f"{text:>{width}}" for text, width in zip(self._cells(row), _COLUMNS.values(), strict=True)) + (
            f"  {row.modality}" if self._config.is_mixture else ""
        )
        if self._rows > 1:  # the first row has the start of the loader processes
            self._waits.append(row.data_wait_share)
        if not self._hinted and len(self._waits) == self._waits.maxlen and min(self._waits) >= _BOUND:
            self._hinted = True
            yield hint(self._config, row, self._cores // local_ranks())

    def _cells(self, row: MetricsRow) -> list[str]:
        return [
            f"{row.step:,}/{self._config.train.steps:,}",
            f"{row.epoch}",
            f"{row.loss:.5g}",
            f"{row.lr:.3g}",
            f"{row.target_std:.3g}",
            f"{row.grad_norm:.3g}",
            f"{row.samples_per_s:,.4g}" if row.samples_per_s < 1000 else f"{row.samples_per_s:,.0f}",
            f"{row.data_wait_share:.0%}",
            f"{row.memory_gib:.3g} GiB",
            duration(self.seconds_left(row.step)),
        ]

    def seconds_left(self, step: int) -> float:
        """Return the seconds that the steps after `step` will take at the rate of the recent rows, saves included."""
        (begin, first), (now, last) = self._recent[0], self._recent[-1]
        return (now - begin) / max(1, last - first) * max(0, self._config.train.steps - step)


def hint(config: PretrainConfig, row: MetricsRow, cores: int) -> str:
    """Return a line for a run that waits for data: the slowest stage, and what to set. cores: for each rank."""
    workers, most = config.data.workers, max(1, cores - 1)
    stages = {"reading": row.read_ms, "decoding": row.decode_ms, "masking and stacking": row.batch_ms}
    slowest = max(stages, key=lambda stage: stages[stage])
    wanted = min(most, max(1, math.ceil(workers / max(1e-3, 1 - row.data_wait_share))))
    remedy = f"set data.workers={wanted}" if wanted > workers else _remedy(config, row, slowest)
    return (
        f"data bounds this run: {row.data_wait_share:.0%} of a step is waiting for it. {slowest} takes "
        f"{stages[slowest]:.3g} ms of the {sum(stages.values()):.3g} ms of a sample; data.workers={workers} of "
        f"{cores} core{'s' * (cores > 1)} a rank: {remedy}"
    )


def _remedy(config: PretrainConfig, row: MetricsRow, slowest: str) -> str:
    """What helps if there are no cores for more loader processes."""
    if slowest == "reading":
        return "keep the shards on a faster disk, or raise data.read_ahead_mb and data.cache_gb for remote ones"
    smaller = {
        "vision": f"build the shards from images of about {2 * config.vision.image_size} pixels",
        "speech": "build the shards with a shorter segment_seconds, or set speech.normalise=crop",
        "text": "take fewer ranks",
    }[row.modality]
    return f"more cores are needed, or less work: {smaller}"


def ending(steps: int, samples: int, seconds: float, checkpoint: str) -> str:
    """Return a line about a run that is complete. seconds: since this start of it."""
    return f"done: {steps:,} steps and {samples:,} samples; {duration(seconds)} since this start; saved {checkpoint}"


def next_commands(config: PretrainConfig, probed: bool) -> list[str]:
    """Return the two commands that come next: look at the features if no probe has, and at the curves if one has."""
    run = config.run.dir
    which = f" modality={config.modalities[0]}" if config.is_mixture else ""
    look = f"board run={shlex.quote(run)}"
    if not probed:
        look = f"probe run={shlex.quote(run)} train_shards=LABELLED test_shards=HELD_OUT"
    return [f"./run.sh {look}", f"./run.sh export run={shlex.quote(run)} out={shlex.quote(f'{run}-exported')}{which}"]
