"""Normal numbers as a pure function of (key, position, channel): the same on every rank and in every micro-batch.

Each pair of channels has 32 random bits: a counter, mixed by the finaliser of MurmurHash3 (Appleby 2011) together with
its key. Two halves of 16 bits become two normal numbers (Box and Muller 1958), so none exceeds 4.9 deviations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def normal_noise(keys: Tensor, rows: Tensor, width: int, std: float, dtype: torch.dtype) -> Tensor:
    """Return normal numbers [N, R, H] of deviation `std`, H = `width`.

    keys: int64 [N], one for each mask. rows: int64 [N, R], positions in the sample.
    """
    pairs = -(-width // 2)
    counter = rows.to(torch.int32)[..., None] * pairs + torch.arange(pairs, dtype=torch.int32, device=rows.device)
    high, low = _mixed(_half(keys, 32)), _half(keys, 0)
    bits = _mixed(_mixed(counter ^ high[:, None, None]) ^ low[:, None, None])
    radius = _unit(_shifted(bits, 16)).log_().mul_(-2 * std**2).sqrt_()
    angle = _unit(bits & 0xFFFF).mul_(2 * math.pi)
    noise = torch.cat([radius * angle.cos(), radius * angle.sin()], -1)
    return noise[..., :width].to(dtype)


def _half(keys: Tensor, shift: int) -> Tensor:
    """Return 32 bits of int64 keys as int32."""
    return ((keys >> shift) & 0xFFFFFFFF).to(torch.int32)


def _shifted(x: Tensor, count: int) -> Tensor:
    """Shift int32 to the right and fill with zeros; torch's own shift would repeat the sign."""
    return (x >> count) & ((1 << (32 - count)) - 1)


def _mixed(x: Tensor) -> Tensor:
    """Mix the bits of int32; products wrap around."""
    x = (x ^ _shifted(x, 16)) * -2048144789  # 0x85EBCA6B
    x = (x ^ _shifted(x, 13)) * -1028477387  # 0xC2B2AE35
    return x ^ _shifted(x, 16)


def _unit(x: Tensor) -> Tensor:
    """Map whole numbers of 16 bits to the middles of 2**16 parts of (0, 1)."""
    return (x.float() + 0.5).mul_(2.0**-16)
