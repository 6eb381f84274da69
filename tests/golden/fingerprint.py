"""The machine and the libraries that computed something: sums are equal to the last bit only if these are the same."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import torch


def fingerprint() -> dict[str, str]:
    """Return the processor, its vector instructions as torch uses them, and the versions of what computes."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": model or platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "deepspeed": version("deepspeed"),
    }
