"""Run by the launcher on every rank: trains real engines on made-up batches and writes what happened as JSON.

engine_worker.py JOBS.json     a list of {"overrides": [...], "steps": n} with "poison": step (`follow`), with
                               "resume_at": step and "folder": path (`resume`), with "save": path or "load": path
                               (`leave` and `take_up`), with "plants": [[where, module]] (`find`), or nothing
                               else (`losses`)
"""

from __future__ import annotations

import gc
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from configs.compose import compose_pretrain
from configs.schema import PretrainConfig
from models.build import modality_of
from models.data2vec2 import make_objective
from pretrain.checkpoints.reading import RunState, load_weights
from pretrain.checkpoints.saving import Checkpoints
from pretrain.engine import distributed
from pretrain.engine.engine import Engine
from pretrain.engine.teacher import update
from pretrain.health.non_finite import first_not_finite
from tests.integration.made_up import micro_batches


def low_precision_copy(engine: Engine) -> dict[str, Tensor]:
    """The frozen copy that the forward pass uses, whole, as the engine's stage stores it."""
    import deepspeed

    copies = {name: teacher for name, _, teacher in engine.model.tracked()}
    with deepspeed.zero.GatheredParameters(list(copies.values()), enabled=engine.config.deepspeed.stage == 3):
        return {name: parameter.detach().clone().cpu() for name, parameter in copies.items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[str]:
    """Names of what is not the same."""
    return [name for name in before if not torch.equal(before[name], after[name])]


def poisoned(engine: Engine) -> list:
    """Make every gradient of this rank undefined; returns the hooks."""
    parameters = engine.model.student.parameters()
    return [parameter.register_hook(lambda gradient: gradient * float("nan")) for parameter in parameters]


class Average:
    """The plain fp32 average of the gathered masters, kept beside the engine's own."""

    def __init__(self, engine: Engine, start: dict[str, Tensor]) -> None:
        self.averaged = {name for name, _, _ in engine.model.tracked()}
        self.owners = {name: modality_of(name, engine.config) for name in start}
        self.values = {name: values.clone() for name, values in start.items()}

    def step(self, masters: dict[str, Tensor], decay: float, modality: str) -> None:
        """What an applied step of that modality makes of it; what is not averaged is the student's."""
        for name, values in self.values.items():
            if name not in self.averaged:
                values.copy_(masters[name])
            elif self.owners[name] in (None, modality):
                update(values, masters[name], decay)

    def others(self, modality: str) -> set[str]:
        """Names that a step of that modality must not move."""
        return {name for name, owner in self.owners.items() if owner not in (None, modality)}


def follow(job: dict) -> dict:
    """Train one engine, with a step whose gradient is undefined on the last rank."""
    config = compose_pretrain(job["overrides"])
    engine = Engine(make_objective(config), config, torch.device("cpu"))
    start = masters = engine.partitions.gather("student")
    average, first_copy = Average(engine, start), low_precision_copy(engine)
    norms, decays, trespassed, poisoned_moved = [], [], set(), []
    for step in range(job["steps"]):
        before = engine.partitions.gather("teacher")
        poison = step == job["poison"]
        hooks = poisoned(engine) if poison and distributed.rank() == distributed.world() - 1 else []
        result = engine.step(micro_batches(config, step))
        for hook in hooks:
            hook.remove()
        norms.append(result.grad_norm)
        decays.append(result.teacher_decay)
        last, masters = masters, engine.partitions.gather("student")
        moved = {*changed(before, engine.partitions.gather("teacher")), *changed(last, masters)}
        trespassed |= moved & average.others(result.modality)
        if result.applied:
            average.step(masters, result.teacher_decay, result.modality)
        else:
            poisoned_moved += moved
    teacher, copy = engine.partitions.gather("teacher"), low_precision_copy(engine)
    dtype = next(iter(copy.values())).dtype
    moments = {int(state["step"]) for m in engine.partitions.masters if (state := engine.optimizer.state.get(m))}
    return {
        "norms": norms,
        "decays": decays,
        "applied": engine.applied,
        "skipped": engine.skipped,
        "adam_steps": sorted(moments),
        "moved_in_poisoned_step": poisoned_moved,
        "moved_by_another_modality": sorted(trespassed),
        "starts_as_copy": all(torch.equal(first_copy[name], start[name].to(dtype)) for name in first_copy),
        "teacher_differs": changed(average.values, teacher),
        "student_stands_still": [name for name in start if torch.equal(start[name], masters[name])],
        "teacher_is_student": [name for name in copy if torch.equal(teacher[name], masters[name])],
        "copy_differs": [name for name in copy if not torch.equal(copy[name], teacher[name].to(dtype))],
        "copy_dtype": str(dtype),
        "teacher_bytes": distributed.gather(engine.partitions.teacher_bytes()),
        "averaged": sum(copy[name].numel() for name in copy),
    }


def resume(job: dict) -> dict:
    """Train with a checkpoint on the way, and go on from it with a fresh engine; compare all that is kept."""
    config = compose_pretrain(job["overrides"])
    folder = Path(job["folder"])
    straight = Engine(make_objective(config), config, torch.device("cpu"))
    before, after = range(job["resume_at"]), range(job["resume_at"], job["steps"])
    for step in before:
        train(straight, config, step)
    checkpoints = Checkpoints(folder, config.checkpoint)
    checkpoints.save(straight, RunState({}), wait=True)
    saved = {weights: straight.partitions.gather(weights) for weights in ("teacher", "student")}
    losses = [train(straight, config, step) for step in after]
    second = Engine(make_objective(config), config, torch.device("cpu"))
    checkpoints.load(second, checkpoints.newest_good())
    resumed = [train(second, config, step) for step in after]
    offline = {weights: load_weights(folder, weights)[0] for weights in ("teacher", "student")}
    kept = {"offline": (saved, offline), "gathered": tuple(
        {weights: engine.partitions.gather(weights) for weights in saved} for engine in (straight, second)
    )}  # fmt: skip
    return {
        "same_losses": resumed == losses,
        "same_samples": straight.samples == second.samples,
        "differ": [
            f"{place}.{weights}.{name}"
            for place, (ours, theirs) in kept.items()
            for weights in ours
            for name in changed(ours[weights], theirs[weights])
        ],
    }


def everything(engine: Engine) -> dict[str, Tensor]:
    """Masters, Adam's moments and teacher of all ranks, whole, as KEY/NAME."""
    partitions = engine.partitions
    tensors, labels = partitions.tensors(), partitions.labels
    keys = {name.rpartition("/")[2] for name in tensors}
    mine = [
        (f"{key}/{f.name}", f.start, tensors[place].narrow(0, f.offset, f.numel).cpu().clone())
        for key in sorted(keys)
        for f in partitions.fragments
        if (place := f"{labels[f.partition]}/{key}") in tensors
    ]
    whole = {f"{key}/{name}": torch.full((shape.numel(),), float("nan")) for key in keys
             for name, shape in partitions.shapes.items()}  # fmt: skip
    for rank in distributed.gather(mine) if partitions.sharded else [mine]:
        for name, start, values in rank:
            whole[name][start : start + len(values)] = values
    return whole


def leave(job: dict) -> dict:
    """Train one engine, save it, and go on; the losses from there."""
    config = compose_pretrain(job["overrides"])
    engine = Engine(make_objective(config), config, torch.device("cpu"))
    for step in range(job["steps"]):
        train(engine, config, step)
    checkpoints = Checkpoints(Path(job["save"]), config.checkpoint)
    checkpoints.save(engine, RunState({}))
    checkpoints.finish()
    states = everything(engine)
    if distributed.rank() == 0:
        torch.save((states, engine.partitions.group_states()), Path(job["save"]) / "states.pt")
    return {"losses": [train(engine, config, job["steps"] + step) for step in range(3)]}


def take_up(job: dict) -> dict:
    """Load checkpoints of any layout into one engine, one after the other, and compare all that each holds; after the
    first and the last go on training."""
    config = compose_pretrain(job["overrides"])
    engine = Engine(make_objective(config), config, torch.device("cpu"))
    results = []
    for folder in map(Path, job["load"]):
        checkpoints = Checkpoints(folder, config.checkpoint)
        checkpoints.load(engine, checkpoints.newest_good())
        ends = folder in (Path(job["load"][0]), Path(job["load"][-1]))
        results.append({
            "differ": differences(engine, folder / "states.pt"),
            "counts": [engine.steps, engine.skipped, engine.samples],
            "losses": [train(engine, config, job["steps"] + step) for step in range(3 if ends else 0)],
        })  # fmt: skip
    return {"loaded": results}


def differences(engine: Engine, file: Path) -> list[str]:
    """What of the engine's state is not what `leave` wrote down, or not what follows from it."""
    saved, groups = torch.load(file, weights_only=False)
    states, copy, teacher = everything(engine), low_precision_copy(engine), engine.partitions.gather("teacher")
    differ = [name for name in saved if not torch.equal(saved[name].nan_to_num(7), states[name].nan_to_num(7))]
    differ += [name for name in copy if not torch.equal(copy[name], teacher[name].to(copy[name].dtype))]
    differ += sorted(saved.keys() ^ states.keys())
    return differ + ([] if engine.partitions.group_states() == groups else ["the optimizer's groups"])


def find(job: dict) -> dict:
    """Plant a NaN in a step, on the last rank: in a module's output or in the gradient there. What is found in a second
    run of the batch, and whether an engine that never saw the step takes the next one alike."""
    config = compose_pretrain(job["overrides"])
    engine, other = (Engine(make_objective(config), config, torch.device("cpu")) for _ in range(2))
    train(engine, config, 0), train(other, config, 0)
    found = []
    for number, (where, name) in enumerate(job["plants"], start=1):
        batches, before = micro_batches(config, 0), everything(engine)
        with planted(engine, where, name):
            applied = engine.step(batches).applied
            found.append([applied, first_not_finite(engine, batches, number)])
        if changed(before, everything(engine)):
            found[-1].append("moved")
    engine.resume(other.steps, other.skipped, other.samples)
    same = train(engine, config, 1) == train(other, config, 1) and not changed(everything(engine), everything(other))
    return {"found": found, "same_afterwards": same}


@contextmanager
def planted(engine: Engine, where: str, name: str) -> Iterator[None]:
    """A NaN on the last rank."""
    module = engine.model.get_submodule(name)

    def output(module, inputs, result):
        return result * float("nan")

    def gradient(module, inputs, result):
        if result.requires_grad:
            result.register_hook(lambda grad: grad * float("nan"))

    handle = None
    if distributed.rank() == distributed.world() - 1:
        handle = module.register_forward_hook({"output": output, "gradient": gradient}[where])
    try:
        yield
    finally:
        if handle:
            handle.remove()


def losses(job: dict) -> dict:
    """Train one engine; the loss of every step."""
    config = compose_pretrain(job["overrides"])
    engine = Engine(make_objective(config), config, torch.device("cpu"))
    return {"losses": [train(engine, config, step) for step in range(job["steps"])], "samples": engine.samples}


def train(engine: Engine, config: PretrainConfig, step: int) -> float:
    """One step; its loss."""
    return engine.step(micro_batches(config, step)).loss


def run(job: dict) -> dict:
    """What the job asks for."""
    kinds = {"plants": find, "resume_at": resume, "poison": follow, "save": leave, "load": take_up}
    return next((function for key, function in kinds.items() if key in job), losses)(job)


if __name__ == "__main__":
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    distributed.start()
    gc.freeze()  # DeepSpeed collects garbage up to 24 times in making an engine, each time over all that is imported
    results = [run(job) for job in json.loads(Path(sys.argv[1]).read_text())]
    if distributed.rank() == 0:
        Path(sys.argv[1]).with_suffix(".result.json").write_text(json.dumps(results))
    distributed.barrier()
