"""A whole run through the launcher, resumed and exported; the stall of a checkpoint; the loader's feed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.gpu.recording import Recorder
from benchmarks.saving import measure as measure_saving
from configs.compose import compose_pretrain
from data_shards.loading.loader import open_loader
from models.data2vec2 import make_objective
from pretrain.engine.engine import Engine


def _call(module: str, *arguments: str) -> tuple[int, str, float]:
    """Exit code, end of the output and seconds of a command of the project."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True)
    text = (done.stdout + done.stderr).strip()
    return done.returncode, text[-1500:], time.perf_counter() - start


def runs(record: Recorder, folder: Path, tiny: bool) -> None:
    """Train each kind for some steps and resume it; then export the images' model."""
    sizes = ["model=tiny", "batch.global=8", "batch.micro=4"] if tiny else ["batch.global=128", "batch.micro=64"]
    common = ["schedule.warmup=2", "log.every=2", "checkpoint.every=10", "data=small", "data.workers=2", *sizes]
    kinds = {
        "vision": ["recipe=vision_base_imagenet"], "speech": ["recipe=speech_base_librispeech", "batch.micro=16"],
        "text": ["recipe=text_base_books_wikipedia"], "vision v2": ["recipe=vision_base_imagenet_v2"],
    }  # fmt: skip
    for kind, given in list(kinds.items())[: 1 if tiny else None]:
        run = folder / f"run_{kind.replace(' ', '_')}"
        run_common = [f"data.shards={folder}/{kind.split()[0]}", f"run.dir={run}", *common]
        for steps in (4, 8) if kind == "vision" else (4,):
            arguments = [
                *given,
                *run_common,
                f"train.steps={steps}",
                *(["batch.equal=samples"] if kind != "vision" else []),
            ]
            code, text, taken = _call("pretrain.launch", *arguments)
            figures = {}
            metrics = run / "metrics.jsonl"
            if metrics.exists():
                last = json.loads(metrics.read_text().splitlines()[-1])
                figures = {key: last[key] for key in ("step", "loss", "precision") if key in last}
            record.row(
                f"run {kind} to {steps}", code=code, seconds=taken, **figures, **({"text": text} if code else {})
            )
            if code:
                print(text)
    code, text, taken = _call("pretrain.export", f"run={folder}/run_vision", f"out={folder}/exported")
    record.row("export", code=code, seconds=taken, **({"text": text} if code else {}))


def saving(record: Recorder, folder: Path, device: torch.device, tiny: bool) -> None:
    """Record the stall of a checkpoint, and what a write beside it costs a step."""
    sizes = ["model=tiny", "batch.micro=2"] if tiny else ["batch.micro=64"]
    given = ["recipe=vision_base_imagenet", "model.drop_path=0", *sizes, "run.dir=/nowhere", "data.shards=none"]
    config = compose_pretrain(given)
    engine = Engine(make_objective(config), config, device)
    taken = measure_saving(engine, folder / "checkpoints", 2 if tiny else 4)
    for name, values in taken.items():
        record.row(name, seconds=sorted(values)[len(values) // 2], all_seconds=values)


def feed(record: Recorder, folder: Path, tiny: bool) -> None:
    """Record images per second of the loader by its number of processes, without a GPU's step."""
    cores, size = os.cpu_count() or 1, 32 if tiny else 64
    for workers in (1,) if tiny else (1, 4, 8, max(1, cores - 2)):
        given = [
            "recipe=vision_base_imagenet", f"data.shards={folder}/vision", f"data.workers={workers}", "data=small",
            f"batch.global={size}", f"batch.micro={size}", "run.dir=/nowhere",
        ]  # fmt: skip
        config = compose_pretrain(given)
        loader = open_loader(config, 0, 1)
        steps = loader.steps(0)
        for _ in range(2 * workers + 2):
            next(steps)
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < (1 if tiny else 4):
            next(steps)
            count += size
        rate = count / (time.perf_counter() - start)
        loader.close()
        record.row(f"loader, {workers} processes", images_per_s=rate, per_process=rate / workers)
