"""Collapse statistics: how much targets and predictions vary over the masked tokens.

The figure is the mean over channels of the standard deviation over tokens (data2vec.md section 6); about 1 for
normalised, varied targets, and near 0 after a collapse. Moments are additive, so that micro-batches and ranks sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

_EPS = 1e-6  # added to the variance, as published


def moments(x: Tensor, weight: Tensor) -> Tensor:
    """x [M, H], weight [M] of 0 and 1 -> float64 [1 + 2 H]: the count, the sums and the sums of squares."""
    x, weight = x.detach().double(), weight.double()
    return torch.cat([weight.sum()[None], weight @ x, weight @ x.square()])


def std_from_moments(packed: Tensor) -> Tensor:
    """Moments, summed over whatever counts -> the mean over channels of sqrt(unbiased variance + 1e-6), float64."""
    count = packed[0]
    total, squares = packed[1:].chunk(2)
    variance = (squares - total.square() / count).clamp(min=0) / (count - 1)
    return (variance + _EPS).sqrt().mean()
