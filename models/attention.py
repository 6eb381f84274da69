"""Attention with an additive bias over keys that end where a sample ends: torch's fused kernels on GPUs and under
torch.compile, batched products on a CPU.

Shapes: B samples, h heads, d channels a head, M queries, N keys. On a CPU `scaled_dot_product_attention` has no
fused kernel for a bias that needs a gradient, nor for dropout: its fallback scales q and k by copies, draws dropout
by a serial Bernoulli and walks over all B h M N scores in main memory at every step. Going sample by sample keeps the
scores in the cache, and takes half the time; and a sample's products then leave its padding out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.dropout import keep_mask, on_gpu_or_compiled, random_bits

_ALIGNMENT = 8  # columns: fused attention copies a bias whose rows are not aligned to this


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, lengths: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """softmax(q k' / sqrt(d) + bias) v.

    q [B, M, h, d], k and v [B, N, h, d], bias [h, M, N] or [B, h, M, N] -> [B, M, h, d]. lengths int64 [B]: the
    first so many keys of each sample are attended to; None: all.
    """
    if on_gpu_or_compiled(q):
        return _fused(q, k, v, bias, lengths, dropout)
    counts = [k.shape[1]] * len(k) if lengths is None else lengths.tolist()
    return _SampleBySample.apply(q, k, v, bias, counts, dropout)


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, lengths: Tensor | None, dropout: float) -> Tensor:
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    bias = bias[None] if bias is not None and bias.dim() == 3 else bias  # fused kernels take two or four dimensions
    if lengths is not None:
        padding = _padding_bias(lengths, k.shape[2], q.dtype)
        bias = padding if bias is None else bias + padding
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout).transpose(1, 2)


def _padding_bias(lengths: Tensor, keys: int, dtype: torch.dtype) -> Tensor:
    """[B, 1, 1, N] of 0 at real keys and -inf at the others, its rows aligned in memory."""
    aligned = -(-keys // _ALIGNMENT) * _ALIGNMENT
    padding = torch.arange(aligned, device=lengths.device) >= lengths[:, None, None, None]
    return torch.zeros(padding.shape, dtype=dtype, device=lengths.device).masked_fill_(padding, -torch.inf)[..., :keys]


class _SampleBySample(torch.autograd.Function):
    """Attention as products of one sample's heads at a time; dropout's scale 1 / (1 - p) goes into the output."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, counts: list[int], dropout: float) -> Tensor:
        sizes = [q.shape[2] * q.shape[1] * count for count in counts]
        keep_probabilities = any(ctx.needs_input_grad)
        probabilities = q.new_empty(sum(sizes) if keep_probabilities else max(sizes))
        bits = random_bits(sum(sizes)) if dropout else None
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        start = 0
        for b, (count, size) in enumerate(zip(counts, sizes, strict=True)):
            logits = _logits(q[b], k[b, :count], None if bias is None else _of_sample(bias, b, count))
            p = probabilities[start : start + size] if keep_probabilities else probabilities[:size]
            p = torch.softmax(logits, -1, out=p.view(logits.shape))
            if bits is not None:
                p = p * keep_mask(bits[start : start + size].view(p.shape), dropout, p.dtype)
            torch.mul(_heads(p @ _heads(v[b, :count])), 1 / (1 - dropout), out=out[b])
            start += size
        ctx.save_for_backward(q, k, v, bias, probabilities, bits)
        ctx.dropout, ctx.counts, ctx.sizes = dropout, counts, sizes
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        q, k, v, bias, probabilities, bits = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        d_q, d_k, d_v = (torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (q, k, v))
        d_bias = None if bias is None else torch.zeros_like(bias)
        start = 0
        for b, (count, size) in enumerate(zip(ctx.counts, ctx.sizes, strict=True)):
            p = probabilities[start : start + size].view(q.shape[2], q.shape[1], count)
            kept = None if bits is None else keep_mask(bits[start : start + size].view(p.shape), ctx.dropout, p.dtype)
            d_out = _heads(grad[b] * (1 / (1 - ctx.dropout)))
            d_v[b, :count] = _heads((p if kept is None else p * kept).mT @ d_out)
            d_p = d_out @ _heads(v[b, :count]).mT
            d_logits = torch._softmax_backward_data(d_p if kept is None else d_p.mul_(kept), p, -1, p.dtype)
            if d_bias is not None:
                _of_sample(d_bias, b, count).add_(d_logits)
            torch.mul(_heads(d_logits @ _heads(k[b, :count])), scale, out=d_q[b])
            torch.mul(_heads(d_logits.mT @ _heads(q[b])), scale, out=d_k[b, :count])
            d_k[b, count:], d_v[b, count:] = 0, 0
            start += size
        return d_q, d_k, d_v, d_bias, None, None


def _logits(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    """q [M, h, d], k [n, h, d], bias [h, M, n] -> [h, M, n]."""
    scale = q.shape[-1] ** -0.5
    if bias is None:
        return torch.bmm(_heads(q) * scale, _heads(k).mT)
    return torch.baddbmm(bias, _heads(q), _heads(k).mT, alpha=scale)


def _of_sample(bias: Tensor, sample: int, keys: int) -> Tensor:
    """bias [h, M, N] or [B, h, M, N] -> the view [h, M, keys] of one sample."""
    return (bias[sample] if bias.dim() == 4 else bias)[..., :keys]


def _heads(x: Tensor) -> Tensor:
    """[tokens, h, d] <-> [h, tokens, d], as a view."""
    return x.transpose(0, 1)
