"""Norm of the gradient, and whether it is finite: DeepSpeed's figures, with fewer kernels and copies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

_PIECE = 2**20
"""Elements of a gradient whose norm is taken at a time on a CPU: larger fp64 copies come from the system anew each
time."""

Norm = Callable[..., Tensor]
"""(gradients, their parameters, order of the norm) -> norm over all ranks, DeepSpeed's `get_grad_norm_direct`."""


def not_finite(gradients: Iterable[Tensor | None]) -> Tensor:
    """Return whether a gradient on a GPU holds a NaN or an infinity, bool [1].

    A few kernels serve all gradients. DeepSpeed launches eight for each of them: 57 of the 81 ms that ZeRO and Adam
    took of a step of Large on an H200.
    """
    full = [gradient.detach() for gradient in gradients if gradient is not None and gradient.numel()]
    if not full:
        return torch.zeros(1, dtype=torch.bool)
    return torch.stack(torch._foreach_norm(full, math.inf)).isfinite().all().logical_not().reshape(1)


def quick_norm(measure: Norm) -> Norm:
    """Return `measure`, which copies each gradient to fp64, made quicker.

    On GPUs it gets the norms of all gradients, which a few kernels take: their norm is the same. On CPUs it gets the
    gradients in pieces: copies of 8 MiB use the same memory again and again, while that of a whole embedding is fetched
    from the system page by page, which takes several times as long as the norm.
    """

    def norm(gradients: Iterable[Tensor], params: Iterable[nn.Parameter], norm_type: float = 2) -> Tensor:
        real = (gradient.detach() for gradient in gradients if not getattr(gradient, "_zero_padding", False))
        pairs = list(zip(real, params))  # noqa: B905 DeepSpeed's lists may differ in length
        on_gpu = {gradient.device.type for gradient, _ in pairs} == {"cuda"}
        pairs = _norms(pairs, norm_type) if on_gpu and norm_type == 2 else _pieces(pairs)
        return measure([gradient for gradient, _ in pairs], [p for _, p in pairs], norm_type)

    return norm


def _norms(pairs: list[tuple[Tensor, nn.Parameter]], order: float) -> list[tuple[Tensor, nn.Parameter]]:
    norms = torch._foreach_norm([gradient for gradient, _ in pairs], order, dtype=torch.float64)
    return [(torch.stack(norms), pairs[0][1])]


def _pieces(pairs: list[tuple[Tensor, nn.Parameter]]) -> list[tuple[Tensor, nn.Parameter]]:
    return [(piece, p) for gradient, p in pairs for piece in gradient.flatten().split(_PIECE)]
