"""Attention with an additive bias: torch's fused kernels on GPUs and under torch.compile, batched products on a CPU.

Shapes: B samples, h heads, d channels a head, M queries, N keys. On a CPU `scaled_dot_product_attention` has no
fused kernel for a bias that needs a gradient, nor for dropout: its fallback scales q and k by copies, draws dropout
by a serial Bernoulli and walks over all B h M N scores in main memory at every step. Going sample by sample keeps the
scores in the cache, and takes half the time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = 2**16  # dropout compares 16 random bits with a threshold: the rate is met to 1 / 2**17


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float = 0.0) -> Tensor:
    """softmax(q k' / sqrt(d) + bias) v.

    q [B, M, h, d], k and v [B, N, h, d], bias [h, M, N] or [B, h, M, N] -> [B, M, h, d].
    """
    if q.device.type != "cpu" or torch.compiler.is_compiling():
        return _fused(q, k, v, bias, dropout)
    bias = q.new_zeros(q.shape[2], q.shape[1], k.shape[1]) if bias is None else bias
    return _SampleBySample.apply(q, k, v, bias, dropout)


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    bias = bias[None] if bias is not None and bias.dim() == 3 else bias  # fused kernels take two or four dimensions
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout).transpose(1, 2)


class _SampleBySample(torch.autograd.Function):
    """Attention as products of one sample's heads at a time; dropout's scale 1 / (1 - p) goes into the output."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, dropout: float) -> Tensor:
        batch, queries, heads, width = q.shape
        scores = (batch, heads, queries, k.shape[1])
        keep_probabilities = any(ctx.needs_input_grad)
        probabilities = q.new_empty(scores if keep_probabilities else (1, *scores[1:]))
        bits = _random_bits(scores) if dropout else None
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        for b in range(batch):
            logits = torch.baddbmm(
                bias[b] if bias.dim() == 4 else bias, _heads(q[b]), _heads(k[b]).mT, alpha=width**-0.5
            )
            p = torch.softmax(logits, -1, out=probabilities[b if keep_probabilities else 0])
            if bits is not None:
                p = p * _keep_mask(bits[b], dropout, p.dtype)
            torch.mul(_heads(p @ _heads(v[b])), 1 / (1 - dropout), out=out[b])
        ctx.save_for_backward(q, k, v, probabilities, bits)
        ctx.dropout, ctx.bias_shape = dropout, bias.shape
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        q, k, v, probabilities, bits = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        d_q, d_k, d_v = (torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (q, k, v))
        d_bias = q.new_zeros(ctx.bias_shape)
        for b in range(q.shape[0]):
            p = probabilities[b]
            kept = 1.0 if bits is None else _keep_mask(bits[b], ctx.dropout, p.dtype)
            d_out = _heads(grad[b] * (1 / (1 - ctx.dropout)))
            d_v[b] = _heads((p * kept).mT @ d_out)
            d_p = (d_out @ _heads(v[b]).mT).mul_(kept)
            d_logits = torch._softmax_backward_data(d_p, p, -1, p.dtype)
            (d_bias[b] if len(ctx.bias_shape) == 4 else d_bias).add_(d_logits)
            torch.mul(_heads(d_logits @ _heads(k[b])), scale, out=d_q[b])
            torch.mul(_heads(d_logits.mT @ _heads(q[b])), scale, out=d_k[b])
        return d_q, d_k, d_v, d_bias, None


def _heads(x: Tensor) -> Tensor:
    """[tokens, h, d] <-> [h, tokens, d], as a view."""
    return x.transpose(0, 1)


def _random_bits(shape: tuple[int, ...]) -> Tensor:
    """int16 of `shape`, uniform over all values: four to a draw of the generator, which is what dropout costs here."""
    count = torch.Size(shape).numel()
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    return draws.view(torch.int16)[:count].view(shape)


def _keep_mask(bits: Tensor, dropout: float, dtype: torch.dtype) -> Tensor:
    """1 where kept, 0 where dropped, as floats: torch's products with booleans are slow."""
    return torch.ge(bits, round(dropout * _LEVELS) - _LEVELS // 2, out=torch.empty(bits.shape, dtype=dtype))
