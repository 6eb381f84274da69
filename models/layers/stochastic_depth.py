"""Stochastic depth: the samples that keep a residual branch of a block, and the blocks that a step keeps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Kept(NamedTuple):
    """The samples that keep a residual branch, and the factor on their branch."""

    samples: Tensor
    """int64 [k], k >= 1."""
    scale: float
    """1 / (1 - rate); 0 if no sample keeps the branch, so that the one that is computed adds nothing."""


Path = Kept | Tensor | None
"""Stochastic depth of one branch: the kept samples, or a factor [B, 1, 1] (static shapes), or no stochastic depth."""


def kept_samples(kept: Tensor, rates: list[float], device: torch.device) -> list[Path]:
    """kept bool [branches, B] -> Kept for each branch that has a rate, else None.

    A branch that no sample keeps is computed for one sample with factor 0: under ZeRO-3 every rank has to run the
    same modules in the same order.
    """
    samples = [row.nonzero().flatten() if bool(row.any()) else torch.zeros(1, dtype=torch.int64) for row in kept]
    on_device = torch.cat(samples).to(device, non_blocking=True).split([len(row) for row in samples])
    scales = [1 / (1 - rate) if bool(row.any()) else 0.0 for rate, row in zip(rates, kept, strict=True)]
    paths = zip(rates, on_device, scales, strict=True)
    return [Kept(row, scale) if rate else None for rate, row, scale in paths]


def factors(kept: Tensor, rates: list[float], device: torch.device) -> list[Path]:
    """kept bool [branches, B] -> float32 [B, 1, 1] for each branch that has a rate, else None."""
    factor = (kept / (1 - torch.tensor(rates)[:, None])).to(device, non_blocking=True)
    return [row.view(-1, 1, 1) if rate else None for rate, row in zip(rates, factor, strict=True)]


def keep(x: Tensor, path: Path) -> Tensor:
    """Return the samples of x [B, ...] for which a branch is computed."""
    return x.index_select(0, path.samples) if isinstance(path, Kept) else x


def add(x: Tensor, y: Tensor, gamma: Tensor | None, path: Path) -> Tensor:
    """Return x [B, N, H] + gamma * y [B or k, N, H], in x's dtype."""
    if path is None:
        return x + y if gamma is None else torch.addcmul(x, gamma, y)
    y = y if gamma is None else gamma * y
    if isinstance(path, Kept):
        return x.index_add(0, path.samples, y.to(x.dtype), alpha=path.scale)
    return torch.addcmul(x, path, y)


def kept_layers(layers: int, rate: float, seed: int) -> list[bool]:
    """Return True for each block that layer drop keeps. A pure function of `seed`, so that ranks agree."""
    if not rate:
        return [True] * layers
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(layers, generator=generator) >= rate).tolist()
