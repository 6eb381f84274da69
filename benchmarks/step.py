"""Seconds of one training step of vision Base on a CPU through the real loader and engine, split into phases.

    OMP_NUM_THREADS=2 python -m benchmarks.step [--steps 10] [--shards PATTERN] [--profile] [key=value ...]

One process, recipe vision_base_imagenet at batch 8 in fp32; `key=value` overrides the recipe. Without shards, images of
1/f noise stand in for photographs. Other work on the machine slows the step and matrix products by about the same
factor. So an sgemm is measured before and after each step, and the product is reported: seconds x sgemm rate = the
step's work in units of this machine's matrix products.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import Tensor

import pretrain.engine.teacher
from benchmarks.data import noise_photo
from configs.compose import compose_pretrain
from configs.schema import PretrainConfig
from data_shards.loading.loader import open_loader
from data_shards.making.writer import save_folder_index, write_shard
from data_shards.shards.index_file import FolderIndex
from models.data2vec import Data2Vec
from models.flops import flops
from pretrain.engine import distributed
from pretrain.engine.engine import Engine

SGEMM = 2048  # rows of the square calibration product
IMAGES = 64
RECIPE = [
    "recipe=vision_base_imagenet", "precision=fp32", "batch.global=8", "batch.micro=8", "data.workers=0",
]  # fmt: skip
PHASES = ("data", "teacher", "student", "backward", "optimizer", "teacher update", "refresh", "rest")


class Clock:
    """Seconds by phase. A phase inside another is taken off the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the block's seconds as `name`."""
        self._inner.append(0.0)
        start = time.perf_counter()
        yield
        elapsed = time.perf_counter() - start
        self.seconds[name] += elapsed - self._inner.pop()
        self._inner[-1] += elapsed

    def time(self, owner: Any, function: str, name: str) -> None:
        """Count every call of `owner.function` as `name`."""
        original: Callable = getattr(owner, function)

        def timed(*arguments: Any, **keywords: Any) -> Any:
            with self.phase(name):
                return original(*arguments, **keywords)

        setattr(owner, function, timed)


def time_phases(clock: Clock, engine: Engine) -> None:
    """Time the engine's own calls, in place."""
    clock.time(engine.model, "embed", "student")
    clock.time(engine.model, "targets", "teacher")
    clock.time(engine.model, "predictions", "student")
    clock.time(engine.deepspeed, "backward", "backward")
    clock.time(engine.deepspeed, "step", "optimizer")
    clock.time(pretrain.engine.teacher, "update", "teacher update")
    clock.time(engine.partitions, "update_teacher_copy", "refresh")


def measure(config: PretrainConfig, steps: int) -> list[dict[str, float]]:
    """Seconds by phase and the `sgemm` rate in GFLOP/s of each step, after a first one that warms up."""
    engine = Engine(Data2Vec(config), config, torch.device("cpu"))
    batches = open_loader(config, 0, 1).steps(0)
    clock, results = Clock(), []
    time_phases(clock, engine)
    a, b = torch.randn(SGEMM, SGEMM), torch.randn(SGEMM, SGEMM)
    for _ in range(steps + 1):
        clock.seconds.clear()
        before = sgemm_rate(a, b)
        with clock.phase("rest"):
            with clock.phase("data"):
                micro_batches = next(batches)
            engine.step(micro_batches)
        results.append({**clock.seconds, "sgemm": (before + sgemm_rate(a, b)) / 2})
    return results[1:]


def sgemm_rate(a: Tensor, b: Tensor, repeats: int = 8) -> float:
    """Present rate of large float32 products in GFLOP/s."""
    start = time.perf_counter()
    for _ in range(repeats):
        a @ b
    return repeats * 2 * SGEMM**3 / (time.perf_counter() - start) / 1e9


def step_flops(config: PretrainConfig) -> float:
    """Floating-point operations of a step of images, in matrix products."""
    vision, size = config.vision, config.batch.global_
    return flops(config.for_modality("vision"), [vision.tokens] * size, [vision.mask.patches] * size)


def report(results: list[dict[str, float]], flops: float) -> None:
    """Print a row per phase, and the paired comparison: medians over the steps."""
    middle = statistics.median
    totals = [sum(result[phase] for phase in PHASES) for result in results]
    work = [total * result["sgemm"] for total, result in zip(totals, results, strict=True)]
    for phase in PHASES:
        share = middle(result[phase] / total for result, total in zip(results, totals, strict=True))
        print(f"{phase:15} {middle(result[phase] for result in results):7.3f} s {100 * share:5.1f} %")
    rates = [result["sgemm"] for result in results]
    print(f"{'step':15} {middle(totals):7.3f} s  from {min(totals):.3f} to {max(totals):.3f}")
    print(f"{'sgemm':15} {middle(rates):7.1f} GFLOP/s  from {min(rates):.1f} to {max(rates):.1f}")
    print(f"{'s x rate':15} {middle(work):7.0f} GFLOP  from {min(work):.0f} to {max(work):.0f}")
    print(f"{'products':15} {flops / 1e9:7.0f} GFLOP, {flops / 1e7 / middle(work):.0f} % of s x rate")


def noise_shards(folder: Path) -> str:
    """Write a shard of stand-in photographs; returns its pattern."""
    samples = [(f"{i:06d}", {"jpg": noise_photo(i)}) for i in range(IMAGES)]
    entry = write_shard(folder / "noise-000000.tar", samples)
    save_folder_index(folder, FolderIndex((entry,), ()))
    return str(folder / "noise-*.tar")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--shards", default="")
    parser.add_argument("--profile", action="store_true", help="then print the operators of two steps")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    distributed.start()
    with tempfile.TemporaryDirectory() as folder:
        shards = arguments.shards or noise_shards(Path(folder))
        config = compose_pretrain([*RECIPE, f"data.shards={shards}", *arguments.overrides])
        versions = f"torch {torch.__version__}, deepspeed {deepspeed.__version__}, Python {platform.python_version()}"
        print(f"{versions}, {torch.get_num_threads()} threads; {' '.join([*RECIPE, *arguments.overrides])}")
        report(measure(config, arguments.steps), step_flops(config))
        if arguments.profile:
            with torch.profiler.profile() as profile:
                measure(config, 1)
            print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=40))


if __name__ == "__main__":
    main()
