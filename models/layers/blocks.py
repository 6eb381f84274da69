"""Transformer blocks: pre-norm as in ViT, post-norm as in BERT, and DeepNorm; the same for all modalities.

Shapes: B samples, N tokens, H width, h heads, d = H / h, M selected tokens. Residual sums are float32 whatever the
parameters' dtype. Between pre-norm blocks the stream stays float32: with LayerScale at 1e-4 a bfloat16 sum would round
the branches away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.modality_config import TransformerConfig
from configs.published import Published
from models import kernels
from models.layers.attention import attend, select_queries
from models.layers.dropout import dropout
from models.layers.stochastic_depth import Path, add, keep

INIT_STD = 0.02


@dataclass(frozen=True)
class BlockInputs:
    """Inputs of a block beside the tokens. Blocks hold no rates, since modalities with other rates may share them."""

    bias: Tensor | None = None
    """[h, N, >= N], or [B, h, N, >= N] without `rows`, added to the attention's logits."""
    lengths: Tensor | None = None
    """int64 [B]: tokens behind a sample's length are not attended to; None: all are real."""
    padding: Tensor | None = None
    """[B, 1, 1, N]: the lengths as a bias on the logits, made once for all blocks if fused kernels need it."""
    rows: Tensor | None = None
    """int64 [B, M]: the tokens whose outputs are asked for; None: all."""
    dropout: float = 0.0
    attention_dropout: float = 0.0
    attention_path: Path = None
    feed_forward_path: Path = None
    hands_out_ffn: bool = False
    """True: the block returns (its output, its feed-forward layer's output before dropout and sum)."""


def layer_norm(width: int, eps: float) -> nn.Module:
    """Return a LayerNorm with the kernel chosen for this machine (see `models.kernels`)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return kernels.layer_norm(device).cls(width, eps=eps)


class QKV(nn.Module):
    """Fused projection to queries, keys and values; the keys have a bias if the published model has one."""

    def __init__(self, width: int, key_bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3 * width, width))
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.k_bias = nn.Parameter(torch.zeros(width)) if key_bias else None
        self.v_bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, N, H], rows [B, M] -> q [B, N or M, H], k [B, N, H], v [B, N, H]."""
        k_bias = torch.zeros_like(self.q_bias) if self.k_bias is None else self.k_bias
        if rows is None:
            q, k, v = F.linear(x, self.weight, torch.cat([self.q_bias, k_bias, self.v_bias])).chunk(3, -1)
            return q, k, v
        width = x.shape[-1]
        q_weight, kv_weight = self.weight.split([width, 2 * width])
        q = F.linear(select_tokens(x, rows), q_weight, self.q_bias)
        k, v = F.linear(x, kv_weight, torch.cat([k_bias, self.v_bias])).chunk(2, -1)
        return q, k, v


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int, key_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = QKV(width, key_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, inputs: BlockInputs, path: Path = None) -> Tensor:
        """x [B or k, N, H] of the samples that `path` keeps -> [B or k, N or M, H]."""
        given = (inputs.rows, inputs.lengths, inputs.padding)
        rows, lengths, padding = (None if tensor is None else keep(tensor, path) for tensor in given)
        q, k, v = (tensor.unflatten(-1, (self.heads, -1)) for tensor in self.qkv(x, rows))
        bias = inputs.bias
        if bias is not None:
            bias = keep(bias, path) if bias.dim() == 4 else bias
            bias = (bias if rows is None else select_queries(bias, rows))[..., : x.shape[1]]
        return self.proj(attend(q, k, v, bias, lengths, inputs.attention_dropout, padding).flatten(2))


class FeedForward(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., H] -> [..., H]."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention and feed-forward with their norms. Subclasses decide on the place of the norms."""

    def __init__(self, model: TransformerConfig, form: Published) -> None:
        super().__init__()
        self.norm1 = layer_norm(model.width, form.norm_eps)
        self.attention = Attention(model.width, model.heads, form.key_bias)
        self.norm2 = layer_norm(model.width, form.norm_eps)
        self.feed_forward = FeedForward(model.width, model.ffn)


class PreNormBlock(Block):
    """x += path(gamma1 * attention(norm1(x))); x += path(gamma2 * feed_forward(norm2(x)))."""

    def __init__(self, model: TransformerConfig, form: Published) -> None:
        super().__init__(model, form)
        scaled = model.layer_scale > 0
        self.gamma1 = nn.Parameter(torch.full((model.width,), model.layer_scale)) if scaled else None
        self.gamma2 = nn.Parameter(torch.full((model.width,), model.layer_scale)) if scaled else None

    def forward(self, x: Tensor, inputs: BlockInputs) -> Tensor | tuple[Tensor, Tensor]:
        """float32 x [B, N, H] -> [B, N, H]; with rows [B, M] only those tokens' outputs, [B, M, H]."""
        path = inputs.attention_path
        y = self.attention(self.norm1(keep(x, path)), inputs, path)
        x = x if inputs.rows is None else select_tokens(x, inputs.rows)
        x = add(x, dropout(y, inputs.dropout), self.gamma1, path)
        y = self.feed_forward(self.norm2(keep(x, inputs.feed_forward_path)))
        x = add(x, dropout(y, inputs.dropout), self.gamma2, inputs.feed_forward_path)
        return (x, y) if inputs.hands_out_ffn else x


class PostNormBlock(Block):
    """x = norm1(alpha * x + attention(x)); x = norm2(alpha * x + feed_forward(x)); alpha is 1, or DeepNorm's."""

    def __init__(self, model: TransformerConfig, form: Published) -> None:
        super().__init__(model, form)
        self.alpha = deep_norm_alpha(model.layers) if model.norm == "deep" else 1.0

    def forward(self, x: Tensor, inputs: BlockInputs) -> Tensor | tuple[Tensor, Tensor]:
        """x [B, N, H] in the parameters' dtype -> [B, N, H]; with rows [B, M] only those tokens' outputs, [B, M, H]."""
        y = self.attention(x, inputs)
        x = x if inputs.rows is None else select_tokens(x, inputs.rows)
        x = self.norm1(torch.add(dropout(y, inputs.dropout), x.float(), alpha=self.alpha))
        y = self.feed_forward(x)
        x = self.norm2(torch.add(dropout(y, inputs.dropout), x.float(), alpha=self.alpha))
        return (x, y) if inputs.hands_out_ffn else x


def deep_norm_alpha(layers: int) -> float:
    """Return DeepNorm's factor on the residual stream of an encoder (arXiv 2203.00555, table of figure 2)."""
    return (2 * layers) ** 0.25


def make_blocks(model: TransformerConfig, form: Published) -> nn.ModuleList:
    """Return the blocks of one encoder or of several, not yet initialised. form: their biases and epsilon."""
    block = PreNormBlock if model.norm == "pre" else PostNormBlock
    return nn.ModuleList(block(model, form) for _ in range(model.layers))


@torch.no_grad()
def initialise_blocks(blocks: nn.ModuleList, norm: str | None) -> None:
    """Draw linear maps as published for this kind of block; biases 0, norms 1 and 0, LayerScale as constructed.

    pre: truncated normal; the output maps of block l (from 1) are divided by sqrt(2 l), as in the authors' code
    (data2vec_vision). post: normal of deviation 0.02 (BERT). deep: `_initialise_deep`.
    """
    for number, block in enumerate(blocks, start=1):
        assert isinstance(block, Block)
        for name, parameter in block.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() > 1 and norm == "pre":
                truncated_normal_(parameter)
            elif parameter.dim() > 1 and norm == "post":
                nn.init.normal_(parameter, std=INIT_STD)
        if norm == "pre":
            for output in ("attention.proj.weight", "feed_forward.fc2.weight"):
                block.get_parameter(output).div_(math.sqrt(2 * number))
        elif norm == "deep":
            _initialise_deep(block, (8 * len(blocks)) ** -0.25)


def _initialise_deep(block: Block, beta: float) -> None:
    """Draw as DeepNorm for encoders (arXiv 2203.00555): Xavier normal, gain 1 for queries and keys, else beta."""
    attention, feed_forward = block.attention, block.feed_forward
    q, k, v = attention.qkv.weight.chunk(3)
    for weight in (q, k):
        nn.init.xavier_normal_(weight)
    for weight in (v, attention.proj.weight, feed_forward.fc1.weight, feed_forward.fc2.weight):
        nn.init.xavier_normal_(weight, gain=beta)


def truncated_normal_(x: Tensor) -> None:
    """Fill with a normal of standard deviation INIT_STD cut off at one sigma.

    The inverse distribution function is 15 times as fast as torch's `trunc_normal_`, which redraws values outside.
    """
    bound = math.erf(math.sqrt(0.5))
    x.uniform_(-bound, bound).erfinv_().mul_(math.sqrt(2) * INIT_STD).clamp_(-INIT_STD, INIT_STD)


def select_tokens(x: Tensor, rows: Tensor) -> Tensor:
    """x [B, N, H], rows [B, M] -> [B, M, H]."""
    flat = rows + torch.arange(len(x), device=x.device)[:, None] * x.shape[1]
    return x.flatten(0, 1).index_select(0, flat.flatten()).unflatten(0, rows.shape)
