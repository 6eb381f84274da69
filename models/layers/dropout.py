"""Dropout: torch's own on GPUs and under torch.compile; 16 random bits an element on a CPU.

torch's draws on a CPU are serial and cost more than the matrix products around them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = 2**16  # 16 random bits are compared with a threshold: the rate is met to 1 / 2**17


def dropout(x: Tensor, rate: float) -> Tensor:
    """Return x with a share `rate` of its elements set to 0, and the other elements divided by 1 - rate."""
    if not rate:
        return x
    if on_gpu_or_compiled(x):
        return F.dropout(x, rate)
    return x * keep_mask(random_bits(x.numel()).view(x.shape), rate, x.dtype).div_(1 - rate)


def on_gpu_or_compiled(x: Tensor) -> bool:
    """Return True if torch's own kernels are the fast ones."""
    return x.device.type != "cpu" or torch.compiler.is_compiling()


def random_bits(count: int) -> Tensor:
    """Return int16 [count], uniform over all values.

    One draw of the generator gives four of them: the draws are most of dropout's cost on a CPU.
    """
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    return draws.view(torch.int16)[:count]


def keep_mask(bits: Tensor, rate: float, dtype: torch.dtype) -> Tensor:
    """Return 1 for kept and 0 for dropped elements, as floats: torch's products with booleans are slow."""
    return torch.ge(bits, round(rate * _LEVELS) - _LEVELS // 2, out=torch.empty(bits.shape, dtype=dtype))
