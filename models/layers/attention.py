"""Attention with an additive bias, over the real keys of each sample: torch's fused kernels on GPUs and under
torch.compile, batched products on a CPU.

Shapes: B samples, h heads, d channels a head, M queries, N keys. On a CPU `scaled_dot_product_attention` has no fused
kernel for a bias that needs a gradient, nor for dropout. Its fallback scales q and k by copies, draws dropout by a
serial Bernoulli and walks over all B h M N scores in main memory at every operation. Here a few samples of one length
are computed at a time. Their scores stay in the cache, which takes half the time, and no padding is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.layers.dropout import keep_mask, on_gpu_or_compiled, random_bits

_CACHED = 2**18  # scores that are computed at once; a sample with more is computed alone

ALIGNMENT = 8
"""Rows of a bias begin at multiples of this number of elements. Fused attention copies an unaligned bias at every
call."""


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    dropout: float = 0.0,
    padding: Tensor | None = None,
) -> Tensor:
    """Return softmax(q k' / sqrt(d) + bias) v.

    q [B, M, h, d], k and v [B, N, h, d], bias [h, M, N] or [B, h, M, N] -> [B, M, h, d]. lengths int64 [B]: each sample
    attends to this number of its first keys; None: to all. padding: the `padding_bias` of these lengths, which several
    calls can share; None: made here if a kernel needs it.
    """
    if on_gpu_or_compiled(q):
        if lengths is not None and padding is None:
            padding = padding_bias(lengths, k.shape[1], q.dtype)
        return _fused(q, k, v, bias, padding, dropout)
    counts = [k.shape[1]] * len(k) if lengths is None else lengths.tolist()
    return _GroupByGroup.apply(q, k, v, bias, counts, dropout)


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, padding: Tensor | None, dropout: float) -> Tensor:
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    bias = bias[None] if bias is not None and bias.dim() == 3 else bias  # fused kernels take two or four dimensions
    if padding is not None:
        bias = padding if bias is None else bias + padding
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout).transpose(1, 2)


def padding_bias(lengths: Tensor, keys: int, dtype: torch.dtype) -> Tensor:
    """Return the bias [B, 1, 1, N]: 0 at real keys, -inf at padding. Its rows are aligned in memory."""
    aligned = -(-keys // ALIGNMENT) * ALIGNMENT
    padding = torch.arange(aligned, device=lengths.device) >= lengths[:, None, None, None]
    return torch.zeros(padding.shape, dtype=dtype, device=lengths.device).masked_fill_(padding, -torch.inf)[..., :keys]


def select_queries(bias: Tensor, rows: Tensor) -> Tensor:
    """bias [h, N, N'], rows [B, M] -> [B, h, M, N']."""
    return bias.index_select(1, rows.flatten()).unflatten(1, rows.shape).transpose(0, 1)


def _groups(counts: list[int], scores: int) -> Iterator[tuple[slice, int]]:
    """Yield groups of neighbouring samples with one number of keys, few enough for the cache: (samples, keys).

    scores: a sample's number of scores per key.
    """
    first = 0
    while first < len(counts):
        keys = counts[first]
        last, limit = first + 1, first + max(1, _CACHED // (scores * keys))
        while last < min(limit, len(counts)) and counts[last] == keys:
            last += 1
        yield slice(first, last), keys
        first = last


class _GroupByGroup(torch.autograd.Function):
    """Attention as products of one group of samples at a time. The output is multiplied by dropout's 1 / (1 - p)."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, counts: list[int], dropout: float
    ) -> Tensor:
        groups = list(_groups(counts, q.shape[2] * q.shape[1]))
        keep_probabilities = any(ctx.needs_input_grad)
        probabilities: list[Tensor] = []
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        bits = []
        for some, keys in groups:
            logits = _logits(q[some], k[some, :keys], None if bias is None else _bias_view(bias, some, keys))
            p = torch.softmax(logits, -1)
            if keep_probabilities:
                probabilities.append(p)
            if dropout:
                bits.append(random_bits(p.numel()).view(p.shape))
                p = p * keep_mask(bits[-1], dropout, p.dtype)
            torch.mul(_heads(p @ _heads(v[some, :keys])), 1 / (1 - dropout), out=out[some])
        ctx.save_for_backward(q, k, v, bias, *probabilities, *bits)
        ctx.dropout, ctx.groups = dropout, groups
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, *saved = ctx.saved_tensors
        probabilities, bits = saved[: len(ctx.groups)], saved[len(ctx.groups) :]
        scale = q.shape[-1] ** -0.5
        d_q, d_k, d_v = (torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (q, k, v))
        d_bias = None if bias is None else torch.zeros_like(bias)
        for i, (some, keys) in enumerate(ctx.groups):
            p = probabilities[i]
            kept = keep_mask(bits[i], ctx.dropout, p.dtype) if ctx.dropout else None
            d_out = _heads(grad[some] * (1 / (1 - ctx.dropout)))
            d_v[some, :keys] = _heads((p if kept is None else p * kept).mT @ d_out)
            d_p = d_out @ _heads(v[some, :keys]).mT
            d_logits = torch._softmax_backward_data(d_p if kept is None else d_p.mul_(kept), p, -1, p.dtype)
            if d_bias is not None:
                view = _bias_view(d_bias, some, keys)
                view.add_(d_logits if bias.dim() == 4 else d_logits.sum(0))
            torch.mul(_heads(d_logits @ _heads(k[some, :keys])), scale, out=d_q[some])
            torch.mul(_heads(d_logits.mT @ _heads(q[some])), scale, out=d_k[some, :keys])
            d_k[some, keys:], d_v[some, keys:] = 0, 0
        return d_q, d_k, d_v, d_bias, None, None


def _logits(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    """q [b, M, h, d], k [b, n, h, d], bias [h, M, n] or [b, h, M, n] -> [b, h, M, n]."""
    scale = q.shape[-1] ** -0.5
    if bias is None:
        return _heads(q * scale) @ _heads(k).mT
    shape = (len(q), q.shape[2], q.shape[1], k.shape[1])
    flat = (bias.expand(shape), _heads(q), _heads(k).mT)
    return torch.baddbmm(*(tensor.reshape(-1, *tensor.shape[2:]) for tensor in flat), alpha=scale).view(shape)


def _bias_view(bias: Tensor, samples: slice, keys: int) -> Tensor:
    """Return the view [h, M, keys] or [b, h, M, keys] of a bias [h, M, N] or [B, h, M, N] for some samples."""
    return (bias[samples] if bias.dim() == 4 else bias)[..., :keys]


def _heads(x: Tensor) -> Tensor:
    """[b, tokens, h, d] <-> [b, h, tokens, d], as a view."""
    return x.transpose(1, 2)
