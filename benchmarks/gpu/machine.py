"""The machine: names, versions, and its ceilings in matrix products and memory copies."""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks.gpu.recording import Recorder
from models import kernels


def seconds(function: Callable[[], object], device: torch.device, repeats: int = 20) -> float:
    """Mean duration of a call on the device, after three that do not count."""
    for _ in range(3):
        function()
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(repeats):
            function()
        return (time.perf_counter() - start) / repeats
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(repeats):
        function()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3 / repeats


def free(device: torch.device) -> None:
    """Give back the memory of what nobody refers to."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def first_line(error: Exception) -> str:
    """Class of an error, and the first line of its message."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "cores": str(os.cpu_count())}
    for name in ("torch", "deepspeed", "triton", "numpy", "apex"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def measure(record: Recorder, device: torch.device, tiny: bool) -> None:
    """Record versions, kernels chosen, and the ceilings."""
    cuda = device.type == "cuda"
    names = {"device": torch.cuda.get_device_name() if cuda else platform.processor(), **_versions()}
    if cuda:
        names["cuda"], names["cudnn"] = str(torch.version.cuda), str(torch.backends.cudnn.version())
        names["memory_gib"] = f"{torch.cuda.get_device_properties(device).total_memory / 2**30:.1f}"
    record.row("versions", **names)
    record.row("kernels", layer_norm=str(kernels.layer_norm(device)), adam=str(kernels.adam(device)))
    size = 256 if tiny else 8192
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        a, b = torch.randn(2, size, size, device=device).to(dtype)
        record.row(f"matmul {dtype}", tflops=2 * size**3 / seconds(partial(torch.mm, a, b), device, 5) / 1e12)
    source = torch.randn(2**16 if tiny else 2**30, device=device)
    target = torch.empty_like(source)
    record.row("copy", gb_per_s=8 * source.numel() / seconds(partial(target.copy_, source), device, 5) / 1e9)
