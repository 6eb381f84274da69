"""Warnings of what a run cannot achieve: it would take its steps and learn little. A line each, with key and remedy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from configs.checks.divisors import divisors
from configs.checks.run import in_mixture
from configs.modality_config import ModalityConfig
from configs.resolve.fit import EPOCH_STEPS
from configs.schema import PretrainConfig
from configs.schema_modalities import Modality
from pretrain.describing.memory import Memory, size
from pretrain.engine.schedules import teacher_decay

_SHARE = 20
"""The half-life that a remedy gives the teacher is the run divided by this."""


def of_configuration(config: PretrainConfig) -> Iterator[str]:
    """Yield warnings that no data is needed for."""
    steps = config.train.steps
    if steps:
        yield from _warmup(config, steps)
        yield from _teacher(config, steps)


def of_data(config: PretrainConfig, samples: Mapping[Modality, tuple[int, int]], world: int) -> Iterator[str]:
    """Yield warnings about the data sets. samples: modality -> (samples, steps of an epoch)."""
    for modality in config.modalities:
        for line in _epoch(config.for_modality(modality), *samples[modality], world):
            yield in_mixture(modality, line) if config.is_mixture else line


def of_memory(needed: Memory, available: int) -> Iterator[str]:
    """Yield a warning if the estimate is above the memory of a rank."""
    if needed.total > available:
        yield (
            f"memory: about {size(needed.total)} are needed, and a rank has {size(available)}: lower batch.micro (for "
            f"speech and text batch.micro_tokens), set model.activation_checkpointing=true, or take more ranks with "
            f"deepspeed=zero3"
        )


def _warmup(config: PretrainConfig, steps: int) -> Iterator[str]:
    schedule, short = config.schedule, max(1, steps // 10)
    if steps <= schedule.warmup:
        hold = " schedule.hold=0" if schedule.hold else ""
        yield (
            f"train.steps={steps} ends within schedule.warmup={schedule.warmup}: the learning rate never reaches "
            f"optimizer.lr; for a run of this length set schedule.warmup={short} schedule.steps={steps}{hold}"
        )


def _teacher(config: PretrainConfig, steps: int) -> Iterator[str]:
    if forgotten(config, steps) < 1 and not config.demo:  # what the demos reach with theirs is measured
        ramp = " teacher.decay_end=null teacher.decay_steps=0" if config.teacher.decay_end is not None else ""
        decay = 0.5 ** (1 / max(1, steps / _SHARE))
        yield (
            f"{_decays(config)}: its half-life is longer than this run of {steps} steps, so the "
            f"teacher stays near its start; for a run of this length set teacher.decay={decay:.4g}{ramp}"
        )


def _decays(config: PretrainConfig) -> str:
    """Return the keys of the decay with their values."""
    end = config.teacher.decay_end
    return f"teacher.decay={config.teacher.decay:g}" + ("" if end is None else f" teacher.decay_end={end:g}")


def forgotten(config: PretrainConfig, steps: int) -> float:
    """Return the half-lives of the teacher in the first `steps` steps, counted up to 1."""
    lives = 0.0
    for applied in range(1, steps + 1):
        decay = teacher_decay(applied, config.teacher)
        lives += -math.log2(decay) if decay else 1.0
        if lives >= 1 or (decay == 1 and applied >= config.teacher.decay_steps):
            break
    return min(lives, 1.0)


def _epoch(config: ModalityConfig, samples: int, steps: int, world: int) -> Iterator[str]:
    batch, most = config.batch.global_, samples // EPOCH_STEPS
    unit = world * config.batch.micro if world * config.batch.micro <= most else world
    most = most // unit * unit
    if steps < EPOCH_STEPS:
        remedy = f"set {_batch(config, most, world)}, or add samples" if most else "add samples"
        yield (
            f"data.shards has {samples} samples, and batch.global={batch} takes them in {steps} "
            f"step{'s' * (steps > 1)} an epoch: {remedy}"
        )


def _batch(config: ModalityConfig, batch: int, world: int) -> str:
    """Return keys of a batch that ranks, lanes and micro-batches can divide."""
    keys = [f"batch.global={batch}"]
    if config.longest is None and (batch // world) % config.batch.micro:
        keys.append(f"batch.micro={max(n for n in divisors(batch // world) if n <= config.batch.micro)}")
    return " ".join(keys + ["data.lanes=null"] * bool(config.data.lanes))
