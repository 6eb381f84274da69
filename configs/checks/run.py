"""Rules across keys, which no key alone can show. Every message names the key and a value that would do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

from configs.checks import modalities, objective
from configs.checks.divisors import divisors, listed
from configs.modality_config import ModalityConfig
from configs.schema import PretrainConfig
from configs.schema_modalities import Modality

Precision = Literal["bf16", "fp16", "fp32"]
Equal = Literal["samples", "tokens"]
MAX_BLOCK = 10_000
MAX_DEFAULT_LANES = 768


def check(config: PretrainConfig, world: int) -> None:
    """Raise ValueError, a line per mistake, if the config cannot run on `world` ranks."""
    rules_of_all = (objective.unused, _teacher, _schedule, _optimizer, _deepspeed, _checkpoints)
    whole = [mistake for rule in rules_of_all for mistake in rule(config)]
    rules = (_sizes, modalities.samples, objective.masks, _probe, _weights, partial(_batch, world=world))
    _raise(whole + _of_modalities(config, lambda one: [mistake for rule in rules for mistake in rule(one)]))


def check_sizes(config: PretrainConfig) -> None:
    """Raise ValueError, a line per mistake, if no networks can be made: the rules of `check` that `models` needs."""
    _raise(_of_modalities(config, lambda one: [*_sizes(one)]))


def check_samples(config: ModalityConfig) -> None:
    """Raise ValueError, a line per mistake, if one modality's samples or masks cannot be made: for `data_shards`."""
    _raise([*modalities.grid(config.vision)] if config.modality == "vision" else [])
    _raise([*modalities.samples(config), *objective.masks(config), *_weights(config)])


def _of_modalities(config: PretrainConfig, rules: Callable[[ModalityConfig], list[str]]) -> list[str]:
    """Mistakes of every modality, each once. In a mixture a mistake of one modality names it, and the keys of its
    share."""
    found = {modality: rules(config.for_modality(modality)) for modality in config.modalities}
    common = [line for line in found[config.modalities[0]] if all(line in lines for lines in found.values())]
    own = [in_mixture(name, line) for name, lines in found.items() for line in lines if line not in common]
    return common + own


def in_mixture(modality: Modality, line: str) -> str:
    """A modality's mistake, naming the modality and the keys of `mixture.MODALITY` instead of the run's."""
    share = f"mixture.{modality}."
    line = re.sub(r"\bbatch\.(?=global|micro)|\bdata\.(?=shards\b|weights\b)", share, line)
    return f"{modality}: " + re.sub(r"\bprobe\.(?=train_shards|test_shards)", f"{share}probe_", line)


@contextmanager
def naming(config: PretrainConfig, modality: Modality) -> Iterator[None]:
    """Rewrite ValueErrors from within by `in_mixture`, if the run is a mixture."""
    try:
        yield
    except ValueError as error:
        if not config.is_mixture:
            raise
        raise ValueError("\n".join(in_mixture(modality, line) for line in str(error).splitlines())) from error


def _raise(mistakes: list[str]) -> None:
    if mistakes:
        raise ValueError("\n".join(mistakes))


def resolve_precision(config: PretrainConfig, cuda: bool) -> Precision:
    """The precision that `auto` stands for. Raises ValueError for fp16 without a GPU."""
    if config.precision == "fp16" and not cuda:
        raise ValueError("precision=fp16 needs a GPU, and there is none here: set precision=fp32 (or leave it out)")
    if config.precision == "auto":
        return "bf16" if cuda else "fp32"
    return config.precision


def resolve_lanes(batch: int, lanes: int | None, equal: Equal = "samples") -> int:
    """Lanes of the epoch's order: `data.lanes`, or the largest divisor of `batch.global` up to 768.

    Steps of equal tokens are cut in units of one sample per lane. For them the default is at most `batch.global` / 8,
    so that a step has 8 units or more.
    """
    most = max(1, batch // 8) if equal == "tokens" else MAX_DEFAULT_LANES
    return lanes or max(n for n in divisors(batch) if n <= min(most, MAX_DEFAULT_LANES))


def _batch(config: ModalityConfig, world: int) -> Iterator[str]:
    batch = config.batch
    micro = batch.micro if config.longest is None else None
    if mistake := batch_mistake(batch.global_, micro, config.data.lanes, world, batch.equal):
        yield mistake


def batch_mistake(batch: int, micro: int | None, lanes: int | None, world: int, equal: Equal = "samples") -> str | None:
    """The reason why steps of `batch` samples cannot be split, with a remedy; None if they can.

    `lanes` (see `resolve_lanes`) must divide the batch, `world` the lanes, and `micro` the samples of a rank. micro:
    None for micro-batches that are cut by length, which `batch.micro` limits only.
    """
    lanes, share = resolve_lanes(batch, lanes, equal), batch // world
    if batch % lanes:
        return f"data.lanes={lanes} must divide batch.global={batch}: one of {listed(divisors(batch))}"
    if lanes % world:
        return f"{world} ranks must divide data.lanes={lanes}: {_lane_remedy(batch, lanes, world)}"
    if micro and share % micro:
        return (
            f"batch.micro={micro} must divide the {share} samples of a rank "
            f"(batch.global={batch} on {world} ranks): one of {listed(divisors(share))}"
        )
    return None


def _lane_remedy(batch: int, lanes: int, world: int) -> str:
    """Lanes, batches and numbers of ranks that fit each other."""
    if batch % world == 0:
        legal = listed([n for n in divisors(batch) if n % world == 0])
        return f"data.lanes can be one of {legal}; or the ranks one of {listed(divisors(lanes))}"
    near = max(1, round(batch / world)) * world
    return f"with launch.ranks one of {listed(divisors(batch))}, or batch.global={near}"


def _sizes(config: ModalityConfig) -> Iterator[str]:
    """Mistakes in heads, target blocks and the modality's own sizes."""
    model, layers = config.model, config.teacher.layers
    if model.width % model.heads:
        legal = listed([n for n in divisors(model.width) if n <= 64])
        yield f"model.heads={model.heads} must divide model.width={model.width}: one of {legal}"
    if layers > model.layers:
        yield f"teacher.layers={layers} must be at most model.layers={model.layers}: set teacher.layers={model.layers}"
    if model.norm != "pre" and model.drop_path:
        yield f"model.drop_path={model.drop_path:g} is for pre-norm blocks: set model.drop_path=0, or model.norm=pre"
    yield from modalities.sizes(config)
    yield from objective.decoder(config)


def _teacher(config: PretrainConfig) -> Iterator[str]:
    teacher = config.teacher
    if config.init_teacher and not config.init:
        yield "init_teacher=true takes the teacher of init, which is empty: add init=DIR, or leave it out"
    if teacher.decay_end is not None and teacher.decay_steps == 0:
        yield f"teacher.decay_end={teacher.decay_end:g} needs teacher.decay_steps=STEPS, the length of the ramp"
    if teacher.decay_end is None and teacher.decay_steps:
        yield f"teacher.decay_steps={teacher.decay_steps} needs teacher.decay_end=DECAY, the end of the ramp"


def _schedule(config: PretrainConfig) -> Iterator[str]:
    schedule, steps = config.schedule, config.train.steps
    length = schedule.steps or steps
    given = {"warmup": (schedule.warmup, length // 10), "hold": (schedule.hold, 0)}
    given = {f"schedule.{key}": values for key, values in given.items() if values[0]}
    if given and schedule.warmup + schedule.hold >= length:
        sum_of = " and ".join(f"{key}={value}" for key, (value, _) in given.items())
        remedy = " ".join(f"{key}={value}" for key, (_, value) in given.items())
        yield f"{sum_of} must be below the schedule's {length} steps: set {remedy}, or schedule.steps=STEPS"
    if schedule.kind == "exponential" and schedule.lr_end == 0:
        yield (
            f"schedule.kind=exponential needs schedule.lr_end above 0: "
            f"e.g. schedule.lr_end={config.optimizer.lr / 100:g}"
        )
    if schedule.kind != "constant" and schedule.lr_end == 0 and steps > length:
        yield (
            f"train.steps={steps} is beyond schedule.steps={length}, where the learning rate is 0: "
            f"set schedule.steps={steps}"
        )


def _optimizer(config: PretrainConfig) -> Iterator[str]:
    lr, lr_end, betas = config.optimizer.lr, config.schedule.lr_end, config.optimizer.betas
    if lr_end > lr:
        yield f"schedule.lr_end={lr_end:g} must be at most optimizer.lr={lr:g}: set schedule.lr_end=0"
    if config.schedule.lr_start > lr:
        yield f"schedule.lr_start={config.schedule.lr_start:g} must be at most optimizer.lr={lr:g}: set it to 0"
    if not all(0 <= beta < 1 for beta in betas):
        yield f"optimizer.betas=[{betas[0]:g},{betas[1]:g}]: each must be at least 0 and below 1"


def _deepspeed(config: PretrainConfig) -> Iterator[str]:
    if config.deepspeed.offload_optimizer and config.deepspeed.stage == 0:
        yield "deepspeed.offload_optimizer=true needs ZeRO: add deepspeed=zero1, zero2 or zero3"


def _checkpoints(config: PretrainConfig) -> Iterator[str]:
    every, for_good = config.checkpoint.every, config.checkpoint.keep_every
    if every and for_good % every:
        nearest = max(1, round(for_good / every)) * every
        yield (
            f"checkpoint.keep_every={for_good} must be a multiple of checkpoint.every={every}: "
            f"set checkpoint.keep_every={nearest}"
        )
    if config.guard.spike == "rollback" and not every:
        yield "guard.spike=rollback needs checkpoints to go back to: set checkpoint.every=500, or guard.spike=skip"


def _probe(config: ModalityConfig) -> Iterator[str]:
    if bool(config.probe.train_shards) != bool(config.probe.test_shards):
        missing = "test_shards" if config.probe.train_shards else "train_shards"
        yield f"probe.{missing} is empty: the probe needs probe.train_shards and probe.test_shards"


def _weights(config: ModalityConfig) -> Iterator[str]:
    """Mistakes in the number and the sum of the weights of a list of shards."""
    shards, weights = config.data.shards, config.data.weights
    if not weights or not shards:
        return
    written, items = f"data.weights=[{','.join(map(str, weights))}]", 1 if isinstance(shards, str) else len(shards)
    if isinstance(shards, str):
        yield f"{written} needs a list, as data.shards=[{shards},OTHER], or set data.weights=null"
    elif len(weights) != items:
        remedy = ",".join(["1"] * items)
        yield f"{written} has {len(weights)} weights for the {items} items of data.shards: e.g. data.weights=[{remedy}]"
    elif sum(weights) > MAX_BLOCK:
        near = ",".join(str(max(1, weight * MAX_BLOCK // (2 * sum(weights)))) for weight in weights)
        yield f"{written}: their sum must be at most {MAX_BLOCK}: e.g. data.weights=[{near}]"
