"""Run by the launcher on every rank: trains real engines on made-up batches and prints what happened as JSON.

    engine_worker.py JOB.json     a list of {"overrides": [...], "steps": n} with "poison": step (`run`), or with
                                  "resume_at": step and "folder": path (`resume`)
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import torch

from configs.compose import compose_pretrain
from configs.schema import PretrainConfig
from data_shards.batch import MaskedBatch
from models.data2vec import Data2Vec
from pretrain import distributed
from pretrain.checkpoint import Checkpoints, load_weights
from pretrain.engine import Engine
from pretrain.teacher import update


def micro_batches(config: PretrainConfig, step: int) -> list[MaskedBatch]:
    """This rank's part of a step's samples, which depend on nothing but the step."""
    generator = torch.Generator().manual_seed(step)
    size, tokens, count = config.vision.image_size, config.vision.tokens, config.batch.global_
    inputs = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    mask = torch.zeros(count, tokens, dtype=torch.bool)
    for row in mask:  # as many masked patches as the mask may have, or a few less
        masked = config.vision.mask.patches - int(torch.randint(0, 3, (1,), generator=generator))
        row[torch.randperm(tokens, generator=generator)[:masked]] = True
    batch = MaskedBatch("vision", inputs, torch.eye(3, 4).expand(count, 3, 4), mask, torch.arange(count))
    share = batch.map(lambda tensor: tensor.chunk(distributed.world())[distributed.rank()])
    pieces = share.inputs.shape[0] // config.batch.micro
    return [share.map(lambda tensor, i=i: tensor.chunk(pieces)[i]) for i in range(pieces)]


def low_precision_copy(engine: Engine) -> dict[str, torch.Tensor]:
    """The frozen copy that the forward pass uses, whole, as the engine's stage stores it."""
    import deepspeed

    parameters = dict(engine.model.teacher.named_parameters())
    with deepspeed.zero.GatheredParameters(list(parameters.values()), enabled=engine.config.deepspeed.stage == 3):
        return {name: parameter.detach().clone().cpu() for name, parameter in parameters.items()}


def run(job: dict) -> dict:
    """Train one engine; the plain fp32 average is kept beside it from the gathered masters."""
    config = compose_pretrain(job["overrides"])
    engine = Engine(Data2Vec(config), config, torch.device("cpu"))
    start = engine.partitions.gather("teacher")
    average = {name: values.clone() for name, values in start.items()}
    initial_copy = low_precision_copy(engine)
    poison = next(iter(engine.model.student.parameters()))
    losses, norms, moved = [], [], []
    for step in range(job["steps"]):
        before = engine.partitions.gather("teacher") if step == job.get("poison") else None
        hook = None
        if step == job.get("poison") and distributed.rank() == distributed.world() - 1:
            hook = poison.register_hook(lambda gradient: gradient * float("nan"))
        result = engine.step(micro_batches(config, step))
        if hook:
            hook.remove()
        losses.append(float(distributed.all_sum(result.loss.clone())))
        norms.append(float(result.grad_norm))
        if before is not None:
            after = engine.partitions.gather("teacher")
            moved = [name for name in before if not torch.equal(before[name], after[name])]
        if result.applied:
            masters = engine.partitions.gather("student")
            for name, values in average.items():
                update(values, masters[name], result.teacher_decay)
    teacher, copy = engine.partitions.gather("teacher"), low_precision_copy(engine)
    dtype = next(iter(copy.values())).dtype
    states = [engine.optimizer.state[master] for master in engine.partitions.masters]
    return {
        "losses": losses,
        "norms": norms,
        "applied": engine.applied,
        "skipped": engine.skipped,
        "adam_steps": sorted({int(state["step"]) for state in states}),
        "moved_in_poisoned_step": moved,
        "starts_as_copy": all(torch.equal(initial_copy[n], start[n].to(dtype)) for n in start),
        "teacher_differs": [n for n in average if not torch.equal(average[n], teacher[n])],
        "teacher_stands_still": [n for n in average if torch.equal(start[n], teacher[n])],
        "copy_differs": [n for n in teacher if not torch.equal(copy[n], teacher[n].to(dtype))],
        "copy_dtype": str(dtype),
        "teacher_bytes": distributed.gather(engine.partitions.teacher_bytes()),
        "parameters": sum(values.numel() for values in teacher.values()),
    }


def resume(job: dict) -> dict:
    """Train straight, and again with a checkpoint and a fresh engine in the middle; compare all that is kept."""
    config = compose_pretrain(job["overrides"])
    folder = Path(job["folder"])
    straight = Engine(Data2Vec(config), config, torch.device("cpu"))
    losses = [train(straight, config, step) for step in range(job["steps"])]
    first = Engine(Data2Vec(config), config, torch.device("cpu"))
    for step in range(job["resume_at"]):
        train(first, config, step)
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(first, {}, (0, 0))
    saved = {weights: first.partitions.gather(weights) for weights in ("teacher", "student")}
    second = Engine(Data2Vec(config), config, torch.device("cpu"))
    checkpoints.load(second, checkpoints.newest_good())
    tail = [train(second, config, step) for step in range(job["resume_at"], job["steps"])]
    offline = {weights: load_weights(folder, weights)[0] for weights in ("teacher", "student")}
    kept = {"offline": (saved, offline), "gathered": tuple(
        {weights: engine.partitions.gather(weights) for weights in saved} for engine in (straight, second)
    )}  # fmt: skip
    return {
        "same_losses": tail == losses[job["resume_at"] :],
        "differ": [
            f"{place}.{weights}.{name}"
            for place, (ours, theirs) in kept.items()
            for weights in ours
            for name in ours[weights]
            if not torch.equal(ours[weights][name], theirs[weights][name])
        ],
    }


def train(engine: Engine, config: PretrainConfig, step: int) -> float:
    """One step; its loss."""
    return float(distributed.all_sum(engine.step(micro_batches(config, step)).loss.clone()))


if __name__ == "__main__":
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    distributed.start()
    results = [(resume if "resume_at" in job else run)(job) for job in json.loads(Path(sys.argv[1]).read_text())]
    if distributed.rank() == 0:
        Path(sys.argv[1]).with_suffix(".result.json").write_text(json.dumps(results))
    distributed.barrier()
