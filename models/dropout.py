"""Dropout: torch's on GPUs and under torch.compile. On a CPU 16 random bits an element, since torch's draws there are
serial and cost more than the products around them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = 2**16  # 16 random bits are compared with a threshold: the rate is met to 1 / 2**17


def dropout(x: Tensor, rate: float) -> Tensor:
    """x with a share `rate` of its elements set to 0, and the others divided by 1 - rate."""
    if not rate:
        return x
    if on_gpu_or_compiled(x):
        return F.dropout(x, rate)
    return x * keep_mask(random_bits(x.numel()).view(x.shape), rate, x.dtype).div_(1 - rate)


def on_gpu_or_compiled(x: Tensor) -> bool:
    """True if torch's own kernels are the fast ones."""
    return x.device.type != "cpu" or torch.compiler.is_compiling()


def random_bits(count: int) -> Tensor:
    """int16 [count], uniform over all values. Four come from one draw of the generator, which is the cost of dropout
    here."""
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    return draws.view(torch.int16)[:count]


def keep_mask(bits: Tensor, rate: float, dtype: torch.dtype) -> Tensor:
    """1 for kept, 0 for dropped elements, as floats: torch's products with booleans are slow."""
    return torch.ge(bits, round(rate * _LEVELS) - _LEVELS // 2, out=torch.empty(bits.shape, dtype=dtype))
