"""Pre-LN Transformer blocks and the encoder that hands out their outputs; knows no modality.

Shapes: B samples, N tokens, H width, h heads, d = H / h, M selected tokens. The residual stream is float32 whatever
the parameters' dtype: with LayerScale at 1e-4 a bfloat16 sum would round the branches away.

Two savings change no value. Stochastic depth computes a branch only for the samples that keep it. The last block
computes queries, output projection and feed-forward only for the tokens whose outputs are asked for.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from configs.schema import ModelConfig
from models import kernels
from models.attention import attend

LAYER_NORM_EPS = 1e-6  # data2vec.md 2.1 (BV)


class Kept(NamedTuple):
    """The samples that keep a residual branch, and the factor on their branch."""

    samples: Tensor
    """int64 [k], k >= 1."""
    scale: float
    """1 / (1 - rate); 0 where all samples drop the branch and one is computed for form's sake."""


Path = Kept | Tensor | None
"""Stochastic depth of one branch: the kept samples, or a factor [B, 1, 1] (static shapes), or no stochastic depth."""


def layer_norm(width: int) -> nn.Module:
    """LayerNorm on the kernel that runs here."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return kernels.layer_norm(device).cls(width, eps=LAYER_NORM_EPS)


class QKV(nn.Module):
    """Fused projection to queries, keys and values; the keys have no bias (data2vec.md 2.1, BV)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3 * width, width))
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, N, H], rows [B, M] -> q [B, N or M, H], k [B, N, H], v [B, N, H]."""
        no_bias = torch.zeros_like(self.q_bias)
        if rows is None:
            q, k, v = F.linear(x, self.weight, torch.cat([self.q_bias, no_bias, self.v_bias])).chunk(3, -1)
            return q, k, v
        width = x.shape[-1]
        q_weight, kv_weight = self.weight.split([width, 2 * width])
        q = F.linear(select_tokens(x, rows), q_weight, self.q_bias)
        k, v = F.linear(x, kv_weight, torch.cat([no_bias, self.v_bias])).chunk(2, -1)
        return q, k, v


class Attention(nn.Module):
    """Multi-head self-attention with an additive bias on the logits."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.attention_dropout
        self.qkv = QKV(config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, bias: Tensor | None, rows: Tensor | None) -> Tensor:
        """x [B, N, H], bias [h, N, >= N], rows [B, M] -> [B, N or M, H]."""
        q, k, v = (tensor.unflatten(-1, (self.heads, -1)) for tensor in self.qkv(x, rows))
        if bias is not None:
            bias = (bias if rows is None else select_queries(bias, rows))[..., : x.shape[1]]
        mixed = attend(q, k, v, bias, self.dropout if self.training else 0.0)
        return self.proj(mixed.flatten(2))


class FeedForward(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.ffn)
        self.fc2 = nn.Linear(config.ffn, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., H] -> [..., H]."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """x += path(gamma1 * attention(norm1(x))); x += path(gamma2 * feed_forward(norm2(x)))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm1 = layer_norm(config.width)
        self.attention = Attention(config)
        self.norm2 = layer_norm(config.width)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)
        scaled = config.layer_scale > 0
        self.gamma1 = nn.Parameter(torch.full((config.width,), config.layer_scale)) if scaled else None
        self.gamma2 = nn.Parameter(torch.full((config.width,), config.layer_scale)) if scaled else None

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None,
        rows: Tensor | None = None,
        attention_path: Path = None,
        feed_forward_path: Path = None,
    ) -> Tensor:
        """x [B, N, H] -> [B, N, H]; with rows [B, M] only those tokens' outputs, [B, M, H]."""
        kept_rows = None if rows is None else _kept(rows, attention_path)
        y = self.attention(self.norm1(_kept(x, attention_path)), bias, kept_rows)
        x = x if rows is None else select_tokens(x, rows)
        x = _add(x, self.dropout(y), self.gamma1, attention_path)
        y = self.feed_forward(self.norm2(_kept(x, feed_forward_path)))
        return _add(x, self.dropout(y), self.gamma2, feed_forward_path)


class Encoder(nn.Module):
    """A stack of blocks that share one relative-position bias."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.rates = [config.drop_path * i / max(config.layers - 1, 1) for i in range(config.layers)]
        self.checkpointing = config.activation_checkpointing
        self.static_shapes = config.compile

    def compile_blocks(self) -> None:
        """Compile each block in place with torch.compile; parameter names stay."""
        for block in self.blocks:
            block.compile(dynamic=False)

    def forward(self, x: Tensor, bias: Tensor | None, rows: Tensor | None = None, top: int = 1) -> list[Tensor]:
        """x [B, N, H], bias [h, N, >= N] -> float32 outputs of the last `top` blocks, [B, N, H] each.

        With rows [B, M], the last block's output holds those tokens alone, [B, M, H].
        """
        x, outputs = x.float(), []
        paths = self._draw_paths(x)
        for i, block in enumerate(self.blocks):
            last = i == len(self.blocks) - 1
            arguments = (x, bias, rows if last else None, *paths[2 * i : 2 * i + 2])
            x = self._recomputed(block, arguments) if self.checkpointing and self.training else block(*arguments)
            if i >= len(self.blocks) - top:
                outputs.append(x)
        return outputs

    def _recomputed(self, block: nn.Module, arguments: tuple) -> Tensor:
        return checkpoint(block, *arguments, use_reentrant=False)

    def _draw_paths(self, x: Tensor) -> list[Path]:
        """Stochastic depth of every branch in order; one draw and one copy to the device for all of them."""
        rates = [rate for rate in self.rates for _ in range(2)] if self.training else [0.0] * (2 * len(self.rates))
        if not any(rates):
            return [None] * len(rates)
        kept = torch.rand(len(rates), len(x)) >= torch.tensor(rates)[:, None]  # on the CPU: no wait for the device
        return factors(kept, rates, x.device) if self.static_shapes else kept_samples(kept, rates, x.device)


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


def _kept(x: Tensor, path: Path) -> Tensor:
    """The samples of x [B, ...] that a branch is computed for."""
    return x.index_select(0, path.samples) if isinstance(path, Kept) else x


def _add(x: Tensor, y: Tensor, gamma: Tensor | None, path: Path) -> Tensor:
    """x [B, N, H] + gamma * y [B or k, N, H], in x's dtype."""
    if path is None:
        return x + y if gamma is None else torch.addcmul(x, gamma, y)
    y = y if gamma is None else gamma * y
    if isinstance(path, Kept):
        return x.index_add(0, path.samples, y.to(x.dtype), alpha=path.scale)
    return torch.addcmul(x, path, y)


def select_tokens(x: Tensor, rows: Tensor) -> Tensor:
    """x [B, N, H], rows [B, M] -> [B, M, H]."""
    flat = rows + torch.arange(len(x), device=x.device)[:, None] * x.shape[1]
    return x.flatten(0, 1).index_select(0, flat.flatten()).unflatten(0, rows.shape)


def select_queries(bias: Tensor, rows: Tensor) -> Tensor:
    """bias [h, N, N'], rows [B, M] -> [B, h, M, N']."""
    return bias.index_select(1, rows.flatten()).unflatten(1, rows.shape).transpose(0, 1)
