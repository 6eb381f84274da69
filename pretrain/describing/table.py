"""The table that a run prints when it starts: what it will do, read from the parts that will do it."""

from __future__ import annotations

import math

import psutil  # type: ignore[import-untyped]
import torch

from configs.modality_config import ModalityConfig
from configs.schema import PretrainConfig
from configs.schema_modalities import Modality
from data_shards.kinds import kind_of
from data_shards.loading.loader import Loader
from data_shards.loading.modality_loader import ModalityLoader
from data_shards.order.cursor import local_ranks
from data_shards.order.mixture import mixture_of
from models import kernels
from pretrain.describing import unworkable
from pretrain.describing.memory import Memory, activation_bytes, number, size, state_bytes
from pretrain.engine import distributed
from pretrain.engine.engine import Engine
from pretrain.engine.schedules import learning_rate, teacher_decay
from pretrain.reporting.console import FIRST_STEPS

_WIDTH = 11
"""Characters of the first column."""


def run_table(config: PretrainConfig, engine: Engine, loader: Loader) -> list[str]:
    """Return the lines of the table: of each modality its data, inputs and batches, and then of the whole run."""
    rows: list[tuple[str, str]] = []
    for modality, one in loader.parts.items():
        name = f"{modality} " if config.is_mixture else ""
        own = config.for_modality(modality)
        rows.append((f"{name}data", _data(config, modality, one)))
        rows.append((f"{name}input", _input(own)))
        rows.append((f"{name}batch", _batch(own, one, mixture_of(config).steps_before(engine.steps)[modality])))
    rows += [("model", _model(config, engine)), ("lr", _lr(config)), ("teacher", _teacher(config))]
    rows += [("precision", f"{engine.precision}, ZeRO {config.deepspeed.stage}{_offload(config)}")]
    rows += [("kernels", f"LayerNorm: {kernels.layer_norm(engine.device)}; Adam: {engine.adam}")]
    rows += [("memory", _memory(config, engine)), ("time", _time(config, engine))]
    width = max(_WIDTH, 2 + max(len(name) for name, _ in rows))
    return [f"{name:{width}}{text}" for name, text in rows]


def run_warnings(config: PretrainConfig, engine: Engine, loader: Loader) -> list[str]:
    """Return a line for everything that this run cannot achieve."""
    sizes = {modality: (one.samples, one.steps_per_epoch) for modality, one in loader.parts.items()}
    return [
        *unworkable.of_configuration(config),
        *unworkable.of_data(config, sizes, distributed.world()),
        *unworkable.of_memory(memory(config, engine), available(engine.device)),
    ]


def _data(config: PretrainConfig, modality: Modality, loader: ModalityLoader) -> str:
    index, unit = loader.indexes[modality], kind_of(modality).unit
    classes = f" in {len(index.classes):,} classes" if index.classes else ""
    length = sum(entry.length_sum for entry in index.entries) * unit.total_one
    amount = f"; {number(length)} {unit.total}" if unit.summary else ""
    steps = mixture_of(config).steps_before(config.train.steps)[modality]
    epochs, each = number(steps / loader.steps_per_epoch), loader.steps_per_epoch
    epoch = f"{each:,} step{'s' * (each > 1)}"
    return f"{index.samples:,} samples{classes}{amount}; {epochs} epochs of {epoch} in this run"


def _input(config: ModalityConfig) -> str:
    match config.modality:
        case "vision":
            vision = config.vision
            size = f"images of {vision.image_size} x {vision.image_size} pixels, patches of {vision.patch_size}"
            masked = f"at most {vision.mask.patches} of {vision.tokens} masked" if config.masks is None else ""
            return f"{size}; {masked}{_several(config, vision.tokens)}"
        case "speech":
            length = f"{config.speech.max_seconds:g} s: {config.longest:,} frames"
            return f"clips of at most {length}{_several(config, config.speech.longest, '; of these ')}"
        case "text":
            types = f"{config.longest:,} tokens, of {config.text.vocab_size:,} types"
            return f"texts of at most {types}{_several(config, config.text.longest, '; of the longest ')}"


def _several(config: ModalityConfig, tokens: int, before: str = "") -> str:
    """Return words for the masks of data2vec 2.0 of a sample of `tokens`; "" for data2vec."""
    if config.masks is None:
        return ""
    return f"{before}{config.hidden_tokens(tokens)} masked by each of {config.masks.count} masks"


def _batch(config: ModalityConfig, loader: ModalityLoader, step: int) -> str:
    """Return samples of a step, and how the first step to come is cut on rank 0, whose part is the longest."""
    sizes, world = loader.micro_batch_sizes(step), distributed.world()
    each = f"{min(sizes)} to {max(sizes)}" if min(sizes) < max(sizes) else f"{sizes[0]}"
    ranks = f"{world} rank{'s' * (world > 1)}"
    mean = "" if config.batch.equal == "samples" else " on average"
    cut = f"{len(sizes)} micro-batch{'es' * (len(sizes) > 1)} of {each}"
    first = "" if config.longest is None else " in the first step"
    return f"{config.batch.global_:,} samples a step{mean}: {ranks} x {cut}{first}"


def _model(config: PretrainConfig, engine: Engine) -> str:
    model, counts = config.model, _parameters(engine)
    form = f"{model.layers} blocks of width {model.width}, {model.heads} heads"
    own = {config.for_modality(modality).teacher.layers for modality in config.modalities}
    top = " or ".join(map(str, sorted(own)))
    return (
        f"{model.size}: {form}; {counts[0] / 1e6:.2f} M parameters, {counts[1] / 1e6:.2f} M of them averaged; targets "
        f"from the top {top} blocks"
    )


def _lr(config: PretrainConfig) -> str:
    optimizer, schedule, steps = config.optimizer, config.schedule, config.train.steps
    length = schedule.steps or steps
    parts = []
    if schedule.warmup:
        parts.append(f"{schedule.lr_start:g} to {optimizer.lr:g} in {schedule.warmup:,} steps")
    if schedule.hold or not schedule.warmup:
        parts.append(f"{optimizer.lr:g}" + f" for {schedule.hold:,} steps" * bool(schedule.hold))
    if schedule.kind != "constant":
        parts.append(f"{schedule.kind} to {schedule.lr_end:g} at step {length:,}")
    last = learning_rate(max(0, steps - 1), optimizer, schedule, length)
    return ", ".join(parts) + f"; {last:.3g} in the last step, {steps:,}"


def _teacher(config: PretrainConfig) -> str:
    steps = config.train.steps
    first, last = (teacher_decay(applied, config.teacher) for applied in (1, max(1, steps)))
    if math.isclose(first, last):
        return f"decay {first:g}: {half_life_text(first, steps)}"
    return f"decay {first:.6g} to {last:.6g}: {half_life_text(first, steps)}, later {half_life_text(last, steps)}"


def half_life(decay: float) -> float:
    """Return the steps after which the teacher has half forgotten a student."""
    return math.log(0.5) / math.log(decay) if 0 < decay < 1 else (math.inf if decay else 0.0)


def half_life_text(decay: float, steps: int) -> str:
    """Return the half-life in steps, and as a share of a run of `steps` steps."""
    life = half_life(decay)
    return f"half-life {number(life) if math.isfinite(life) else 'without end'} steps" + (
        f", {number(100 * life / steps)} % of the run" if steps and math.isfinite(life) else ""
    )


def _offload(config: PretrainConfig) -> str:
    return ", optimizer in CPU memory" if config.deepspeed.offload_optimizer else ""


def _parameters(engine: Engine) -> tuple[int, int]:
    """Return the number of parameters, and of those that the teacher averages."""
    shapes = engine.partitions.shapes
    averaged = sum(shapes[entry.name].numel() for entry in engine.model.tracked())
    return sum(shape.numel() for shape in shapes.values()), averaged


def memory(config: PretrainConfig, engine: Engine) -> Memory:
    """Return the estimated memory of this rank."""
    cuda, precision = engine.device.type == "cuda", engine.precision
    states = state_bytes(*_parameters(engine), distributed.world(), precision, config.deepspeed)
    own = [config.for_modality(modality) for modality in config.modalities]
    return Memory(states, max(activation_bytes(one, precision, cuda) for one in own))


def available(device: torch.device) -> int:
    """Return the bytes that one rank can have: its GPU's, or its share of this node's memory."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total // local_ranks()


def _memory(config: PretrainConfig, engine: Engine) -> str:
    needed, there = memory(config, engine), available(engine.device)
    parts = f"{size(needed.states)} of states, {size(needed.activations)} of activations"
    return f"about {size(needed.total)} a rank: {parts}; there are {size(there)}"


def _time(config: PretrainConfig, engine: Engine) -> str:
    steps = max(0, config.train.steps - engine.steps)
    if steps <= FIRST_STEPS:
        return f"{steps} steps to take"
    return f"{steps:,} steps to take; how long they take is said after the first {FIRST_STEPS}"
