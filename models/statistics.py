"""Collapse statistics: variation over tokens of targets, predictions and modules' outputs.

The figure is the mean over channels of the standard deviation over tokens (fairseq examples/data2vec, `compute_var`):
about 1 for normalised, varied targets, and near 0 after a collapse. Moments are additive: those of micro-batches and
ranks are summed. The effective rank is the number of directions in which tokens vary.
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
    """Sum of moments -> the mean over channels of sqrt(unbiased variance + 1e-6), float64."""
    count = packed[0]
    total, squares = packed[1:].chunk(2)
    variance = (squares - total.square() / count).clamp(min=0) / (count - 1)
    return (variance + _EPS).sqrt().mean()


def token_std(x: Tensor) -> Tensor:
    """x [n, H] -> the mean over channels of the unbiased standard deviation over tokens, float64; nan for one token."""
    return (_centred(x).square().sum(0) / (len(x) - 1)).sqrt().mean()


def sample_share(x: Tensor, real: Tensor) -> Tensor:
    """Return the share of x's variance over tokens that is between samples at one position, float64.

    x [B, T, C], real bool [B, T]: the tokens that count. About 0 if position alone decides a token's output, up to 1 if
    it decides nothing. nan unless some position has two samples, or if a value is not finite.
    """
    x, weight = x.detach().double(), real.double()[..., None]
    count = weight.sum(0)  # [T, 1]
    x, weight, count = x[:, count[:, 0] > 1], weight[:, count[:, 0] > 1], count[count[:, 0] > 1]
    if not count.numel():
        return x.new_tensor(torch.nan)
    mean = (x * weight).sum(0) / count
    between = (((x - mean) * weight).square().sum(0) * count / (count - 1)).sum()
    whole = (((x - (x * weight).sum((0, 1)) / count.sum()) * weight).square()).sum()
    return torch.where(whole > 0, between / whole, torch.nan).clamp(max=1)


def effective_rank(x: Tensor) -> Tensor:
    """x [n, H] -> exp of the entropy of x's normalised singular values, centred over tokens, float64 in [1, min(n, H)].

    Source: Roy & Vetterli 2007, "The effective rank". 1 if all tokens are equal. nan if a value is not finite, and for
    fewer than three tokens, which never have more than one direction.
    """
    x = _centred(x)
    gram = x @ x.mT if len(x) < x.shape[1] else x.mT @ x  # float64, since it squares the singular values
    finite = gram.isfinite().all() & (len(x) >= 3)  # eigvalsh raises, or never returns, for other values
    singular = torch.linalg.eigvalsh(gram.where(finite, 0.0)).clamp(min=0).sqrt()
    share = singular / singular.sum()
    rank = torch.special.entr(share).sum().exp().where(singular.sum() > 0, 1.0)
    return rank.where(finite, torch.nan)


def _centred(x: Tensor) -> Tensor:
    """x [n, H] - its mean over tokens, float64."""
    x = x.detach().double()
    return x - x.mean(0)
