"""Learning rate and teacher decay as pure functions of the number of applied steps."""

from __future__ import annotations

import math

from configs.schema_objective import TeacherConfig
from configs.schema_training import OptimizerConfig, ScheduleConfig


def learning_rate(applied: int, optimizer: OptimizerConfig, schedule: ScheduleConfig, length: int) -> float:
    """Return the learning rate of the update that follows `applied` updates, in a schedule of `length` updates.

    It rises linearly from `schedule.lr_start` to the peak over `schedule.warmup` updates and stays there for
    `schedule.hold` updates. Then it falls in the schedule's shape to `schedule.lr_end`, and stays there after `length`.
    """
    peak, end = optimizer.lr, schedule.lr_end
    if applied < schedule.warmup:
        return schedule.lr_start + (peak - schedule.lr_start) * applied / schedule.warmup
    falls = schedule.warmup + schedule.hold
    progress = min(1.0, max(0, applied - falls) / max(1, length - falls))
    match schedule.kind:
        case "cosine":
            remaining = 0.5 * (1 + math.cos(math.pi * progress))
        case "linear":
            remaining = 1 - progress
        case "exponential":
            return end if progress == 1 else peak * (end / peak) ** progress
        case "constant":
            return peak
    return end + (peak - end) * remaining


def teacher_decay(applied: int, teacher: TeacherConfig) -> float:
    """Return the decay tau with which the teacher takes in the student of `applied` updates (1: the first).

    It is a linear ramp, then exactly `decay_end` (arXiv 2202.03555, section 3.3). tau(0) is never used, as in the
    authors' code for speech and text (fairseq, `set_num_updates` of examples/data2vec): at 0 the teacher is a copy.
    """
    end = teacher.decay if teacher.decay_end is None else teacher.decay_end
    if applied >= teacher.decay_steps:
        return end
    return end - (end - teacher.decay) * (1 - applied / teacher.decay_steps)
