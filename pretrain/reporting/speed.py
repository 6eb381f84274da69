"""Speed of a run: throughput, FLOP/s, model FLOPs utilisation, and the peaks of devices."""

from __future__ import annotations

import re
import resource
import sys
import time
from dataclasses import dataclass

import torch

from data_shards.loading.cost import Cost, total
from pretrain.reporting.metrics import Rates


@dataclass(frozen=True)
class Peak:
    """Peak TFLOP/s of one device, and the source of the figure."""

    tflops: float | None
    source: str


@dataclass(frozen=True)
class Work:
    """Time and work of one step; steps add up."""

    seconds: float
    data_wait: float
    """Part of `seconds` that was spent waiting for data."""
    samples: int
    """Samples over all ranks."""
    tokens: int
    """Patches, frames or subwords over all ranks, without padding."""
    flops: float
    """FLOPs of this rank: forward passes of student and teacher, and the backward pass."""
    cost: Cost = Cost()
    """Time that this rank's loader processes spent on the samples."""


class Meter:
    """Steps since the last logged row."""

    def __init__(self, peak: Peak) -> None:
        self._peak = peak
        self._steps: list[Work] = []

    def add(self, work: Work) -> None:
        """Count one step."""
        self._steps.append(work)

    def take(self) -> Rates:
        """Means over the steps added since the last call. There must be at least one."""
        steps, self._steps = self._steps, []
        assert steps, "no step was added since the last row"
        return rates(steps, self._peak.tflops)


def rates(steps: list[Work], peak_tflops: float | None) -> Rates:
    """Throughput of `steps` on devices of `peak_tflops` TFLOP/s each."""
    seconds = sum(step.seconds for step in steps)
    tflops = sum(step.flops for step in steps) / seconds / 1e12
    data_wait = sum(step.data_wait for step in steps)
    cost = total(step.cost for step in steps)
    ms = 1000 / max(1, cost.samples)
    remote = cost.cache_hits + cost.cache_misses
    return Rates(
        samples_per_s=sum(step.samples for step in steps) / seconds,
        tokens_per_s=sum(step.tokens for step in steps) / seconds,
        tflops=tflops,
        mfu=tflops / peak_tflops if peak_tflops else None,
        data_wait=data_wait / len(steps),
        data_wait_share=data_wait / seconds,
        read_ms=ms * cost.read_s,
        decode_ms=ms * cost.decode_s,
        batch_ms=ms * cost.batch_s,
        read_mb_per_s=cost.read_bytes / seconds / 1e6,
        cache_hits=cost.cache_hits / remote if remote else None,
        step_s=seconds / len(steps),
    )


# Dense TFLOP/s (without sparsity) of matrix products in 16 bits, in TF32 and in fp32, by words of the device's name.
# The first match counts. Source, unless a line names another: NVIDIA's data sheet of the part, figures "with sparsity"
# halved.
_GPUS: tuple[tuple[str, float, float | None, float], ...] = (
    ("B200", 2250.0, 1100.0, 75.0),  # HGX B200 data sheet, one of its GPUs
    ("H200 NVL", 835.5, 417.5, 60.0),
    ("H200", 989.4, 494.7, 66.9),  # SXM5: H100 architecture white paper, the same chip
    ("GH200", 989.4, 494.7, 66.9),  # likewise
    ("H100 NVL", 835.5, 417.5, 60.0),
    ("H100 PCIe", 756.0, 378.0, 51.2),
    ("H100", 989.4, 494.7, 66.9),  # SXM5: H100 architecture white paper
    ("A100", 312.0, 156.0, 19.5),
    ("A40", 149.7, 74.8, 37.4),
    ("A10", 125.0, 62.5, 31.2),
    ("L40S", 362.0, 183.0, 91.6),
    ("L40", 181.0, 90.5, 90.5),
    ("L4", 121.0, 60.0, 30.3),
    ("RTX 4090", 165.2, 82.6, 82.6),  # Ada architecture white paper, fp32 accumulation
    ("RTX 3090", 71.0, 35.6, 35.6),  # GA102 architecture white paper, fp32 accumulation
    ("V100-PCIE", 112.0, None, 14.0),
    ("V100", 125.0, None, 15.7),
    ("T4", 65.0, None, 8.1),
)


def peak(device: torch.device, precision: str, configured: float | None) -> Peak:
    """Peak of `device` in `precision` (bf16, fp16, fp32): configured, or of a known GPU, or measured on a CPU."""
    if configured is not None:
        return Peak(configured, "log.peak_tflops")
    if device.type == "cpu":
        return Peak(measure_sgemm(), f"measured fp32 matrix product, {torch.get_num_threads()} threads")
    return gpu_peak(torch.cuda.get_device_name(device), precision, torch.get_float32_matmul_precision() != "highest")


def gpu_peak(name: str, precision: str, tf32: bool) -> Peak:
    """Peak of the GPU that CUDA calls `name`. tf32: fp32 products may round to TF32."""
    for part, half, tf32_tflops, full in _GPUS:
        if re.search(rf"\b{part}\b", name):
            if precision != "fp32":
                return Peak(half, f"{part}, dense {precision}")
            return Peak(tf32_tflops, f"{part}, TF32") if tf32 and tf32_tflops else Peak(full, f"{part}, fp32")
    return Peak(None, f"the peak of {name} is not known: set log.peak_tflops to report MFU")


def measure_sgemm(size: int = 1024, repeats: int = 20) -> float:
    """TFLOP/s of the fastest of `repeats` fp32 products of square matrices, with the threads of this process."""
    a = torch.full((size, size), 0.5)
    seconds = min(_seconds_of_product(a) for _ in range(repeats + 1))  # the first one warms up
    return 2 * size**3 / seconds / 1e12


def _seconds_of_product(a: torch.Tensor) -> float:
    start = time.perf_counter()
    a @ a
    return time.perf_counter() - start


def memory_gib(device: torch.device) -> float:
    """Peak memory so far in GiB: reserved by torch on a GPU, or resident memory of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage: bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
