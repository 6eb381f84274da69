"""Where a non-finite loss or gradient comes from: the step's batch once more, watching every module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from data_shards.batch import SampleBatch
from pretrain.engine import distributed
from pretrain.engine.engine import Engine

NOWHERE = "no module: run again, all is finite (a fault of the hardware, or of the parameters' gradients alone)"


def first_not_finite(engine: Engine, micro_batches: list[SampleBatch], step: int) -> str:
    """Name what first is not finite in a re-run of a step that was not applied: a weight, the data, a module's output
    or the gradient at it, on the lowest rank that has any. Collective.

    Nothing moves, and no gradient is kept.
    """
    given = _any_rank(_weight(engine) or _data(micro_batches))
    return given or _any_rank(_in_passes(engine, micro_batches, step)) or NOWHERE


def _any_rank(found: str | None) -> str | None:
    texts = distributed.gather(found)
    return next((f"rank {rank}: {text}" if len(texts) > 1 else text for rank, text in enumerate(texts) if text), None)


def _weight(engine: Engine) -> str | None:
    """A weight in this rank's partitions of the masters."""
    masters = engine.partitions.local("student")
    for f in engine.partitions.fragments:
        if not _finite(masters[f.partition].narrow(0, f.offset, f.numel)):
            return f"the weight student.{f.name} itself"
    return None


def _data(micro_batches: list[SampleBatch]) -> str | None:
    for batch in micro_batches:
        for field in fields(batch):
            value = getattr(batch, field.name)
            if isinstance(value, Tensor) and not _finite(value):
                return f"the {field.name} of a {batch.modality} sample in the batch"
    return None


def _in_passes(engine: Engine, micro_batches: list[SampleBatch], step: int) -> str | None:
    """The forward passes of all micro-batches, then the backward passes: as many on every rank."""
    count = engine.counts(micro_batches)[0]
    found: list[str] = []
    engine.deepspeed.train()
    for index in range(len(micro_batches)):
        outputs: list[tuple[str, Tensor]] = []
        with _watching(engine.model, outputs):
            # Not through DeepSpeed's engine, which would reduce what the backward pass makes.
            loss = engine.model(*engine.inputs(micro_batches, index, count, step)).loss
        found += [f"the output of {name}" for name, output in outputs if not _finite(output)][:1]
        found += _gradients(loss, outputs)[:1]
    return found[0] if found else None


def _gradients(loss: Tensor, outputs: list[tuple[str, Tensor]]) -> list[str]:
    """Gradients at the modules' outputs, in the order of the backward pass. Those of parameters are not asked for: ZeRO
    would take them for the step's."""
    differentiable = [(name, output) for name, output in outputs if output.requires_grad]
    gradients = torch.autograd.grad(loss, [output for _, output in differentiable], allow_unused=True)
    pairs = reversed(list(zip(differentiable, gradients, strict=True)))
    return [f"the gradient at the output of {name}" for (name, _), g in pairs if g is not None and not _finite(g)]


@contextmanager
def _watching(model: nn.Module, outputs: list[tuple[str, Tensor]]) -> Iterator[None]:
    """Append the name and each output of every module, in the order in which they are done.

    Compiled blocks run as they are written meanwhile: compiled code does not call hooks.
    """

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, inputs, output: outputs.extend((name, tensor) for tensor in _tensors(output))

    named = [(name, module) for name, module in model.named_modules() if name]
    hooks = [module.register_forward_hook(hook(name)) for name, module in named]
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for handle in hooks:
            handle.remove()


def _tensors(output: Any) -> list[Tensor]:
    parts = output if isinstance(output, (tuple, list)) else [output]
    return [part for part in parts if isinstance(part, Tensor)]


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
