"""Seconds of one training step of vision Base on a CPU, by phase, beside the matrix-product speed of the same minutes.

    OMP_NUM_THREADS=2 python -m benchmarks.step [--batch 8] [--steps 10] [--profile]

Other work on the machine slows step and calibration alike, so the two are measured in turn and compared by their
product: seconds x sgemm rate = the work of the step in units of this machine's matrix products.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from configs.schema import ModelConfig, PretrainConfig
from data_shards.batch import MaskedBatch
from models import kernels
from models.data2vec import Data2Vec, masked_rows, parameter_groups, regression_loss
from models.flops import flops_per_sample

SGEMM = 2048  # rows of the square calibration product


class Step:
    """A training step in phases, each a method; `phases` names them in order."""

    def __init__(self, config: PretrainConfig, size: int) -> None:
        self.config, self.model = config, Data2Vec(config).train()
        adam = kernels.adam(torch.device("cpu"))
        self.optimizer = adam.cls(parameter_groups(self.model, config.optimizer), lr=1e-4, **adam.arguments)
        self.batch = natural_batch(config, size)
        self.loss = torch.tensor(0.0)

    def phases(self) -> dict[str, Callable[[], None]]:
        """Name -> phase, in the order they run."""
        return {
            "teacher": self.teacher,
            "student": self.student,
            "backward": self.backward,
            "optimizer": self.optimize,
        }

    def teacher(self) -> None:
        """Normalise the images, and the targets."""
        self.patches = self.model.patches(self.batch)
        self.rows, self.weight = masked_rows(self.batch.mask, self.config.vision.mask.patches)
        self.targets = self.model.targets(self.patches, self.rows)

    def student(self) -> None:
        """Predictions and loss."""
        predictions = self.model.predictions(self.patches, self.batch.mask, self.rows)
        total = regression_loss(predictions, self.targets, self.weight, self.config.loss.beta)
        self.loss = total / self.batch.mask.sum()

    def backward(self) -> None:
        """Gradients."""
        self.loss.backward()

    def optimize(self) -> None:
        """AdamW, with the gradients clipped as the recipe does."""
        torch.nn.utils.clip_grad_norm_(self.model.student.parameters(), self.config.optimizer.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()


def natural_batch(config: PretrainConfig, size: int) -> MaskedBatch:
    """Images whose power falls with frequency as in photographs, and the most masked patches the recipe allows."""
    vision, images = config.vision, torch.zeros(size, 3, config.vision.image_size, config.vision.image_size)
    for side in (4, 16, 64):
        noise = torch.randn(size, 3, side, side) / side**0.5
        images += F.interpolate(noise, images.shape[-2:], mode="bicubic")
    mask = torch.rand(size, vision.tokens).argsort(1) < vision.mask.patches
    inputs = (images * 60 + 128).clamp(0, 255).byte()
    return MaskedBatch("vision", inputs, torch.eye(3, 4).repeat(size, 1, 1), mask, torch.arange(size))


def timed(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def sgemm_rate(a: Tensor, b: Tensor) -> float:
    """GFLOP/s of a large float32 product, now."""
    return 2 * SGEMM**3 / timed(lambda: a @ b) / 1e9


def base_config(drop_path: float, attention_dropout: float) -> PretrainConfig:
    """data2vec vision Base at 224; stochastic depth and attention dropout as published (data2vec.md 2.1)."""
    size = ModelConfig(size="base", layers=12, width=768, heads=12, ffn=3072)
    size.drop_path, size.attention_dropout = drop_path, attention_dropout
    return PretrainConfig(model=size)


@dataclass
class Measurement:
    """One phase of one step: its seconds, and the sgemm rate just before and after it, in GFLOP/s."""

    phase: str
    seconds: float
    rate: float


def measure(step: Step, steps: int) -> list[list[Measurement]]:
    """For each step, its phases; the first step warms up and is left out."""
    a, b = torch.randn(SGEMM, SGEMM), torch.randn(SGEMM, SGEMM)
    results = []
    for _ in range(steps + 1):
        row, before = [], sgemm_rate(a, b)
        for name, phase in step.phases().items():
            seconds, after = timed(phase), sgemm_rate(a, b)
            row.append(Measurement(name, seconds, (before + after) / 2))
            before = after
        results.append(row)
    return results[1:]


def report(results: list[list[Measurement]], flops: float) -> None:
    """A row per phase, and the paired comparison: medians over the steps."""
    middle = statistics.median
    totals = [sum(phase.seconds for phase in step) for step in results]
    work = [sum(phase.seconds * phase.rate for phase in step) for step in results]
    rates = [phase.rate for step in results for phase in step]
    for phases in zip(*results, strict=True):
        share = middle(phase.seconds / total for phase, total in zip(phases, totals, strict=True))
        print(f"{phases[0].phase:12} {middle(phase.seconds for phase in phases):7.3f} s {100 * share:5.1f} %")
    print(f"{'step':12} {middle(totals):7.3f} s  from {min(totals):.3f} to {max(totals):.3f}")
    print(f"{'sgemm':12} {middle(rates):7.1f} GFLOP/s  from {min(rates):.1f} to {max(rates):.1f}")
    print(f"{'s x rate':12} {middle(work):7.0f} GFLOP  from {min(work):.0f} to {max(work):.0f}")
    print(f"{'products':12} {flops / 1e9:7.0f} GFLOP, {flops / 1e7 / middle(work):.0f} % of s x rate")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--drop-path", type=float, default=0.25)
    parser.add_argument("--attention-dropout", type=float, default=0.05)
    parser.add_argument("--profile", action="store_true", help="then print the operators of two steps")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    config = base_config(arguments.drop_path, arguments.attention_dropout)
    step = Step(config, arguments.batch)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {arguments.batch}")
    report(measure(step, arguments.steps), flops_per_sample(config) * arguments.batch)
    if arguments.profile:
        with torch.profiler.profile() as profile:
            measure(step, 1)
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=40, max_name_column_width=60))


if __name__ == "__main__":
    main()
