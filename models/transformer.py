"""Transformer blocks, and the encoder that returns their outputs; the same for all modalities.

Shapes: B samples, N tokens, H width, h heads, d = H / h, M selected tokens. Residual sums are float32 whatever the
parameters' dtype. Between pre-norm blocks the stream stays float32: with LayerScale at 1e-4 a bfloat16 sum would round
the branches away.

Two savings change no value. Stochastic depth computes a branch only for the samples that keep it. The last block
computes queries, output projection and feed-forward only for the tokens whose outputs are asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from configs.modality_config import ModalityConfig, TransformerConfig
from configs.published import Published
from models import kernels
from models.attention import attend, padding_bias, select_queries
from models.dropout import dropout, on_gpu_or_compiled
from models.stochastic_depth import Path, add, factors, keep, kept_layers, kept_samples

Target = Literal["block", "ffn"]

INIT_STD = 0.02


@dataclass(frozen=True)
class BlockInputs:
    """Inputs of a block beside the tokens. Blocks hold no rates, since modalities with other rates may share them."""

    bias: Tensor | None = None
    """[h, N, >= N], added to the attention's logits."""
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


class Encoder(nn.Module):
    """A stack of blocks, its own or shared with other modalities, with the input norm and rates of one modality."""

    norm: nn.Module | None

    def __init__(
        self, config: ModalityConfig, form: Published, input_norm: bool = False, blocks: nn.ModuleList | None = None
    ) -> None:
        """Make the stack. input_norm: normalise the input. blocks: shared ones, which are no children of this one."""
        super().__init__()
        model = config.model
        self.norm = layer_norm(model.width, form.norm_eps) if input_norm else None
        if blocks is None:
            self.blocks = make_blocks(model, form)
        else:
            self.__dict__["blocks"] = blocks
        self.config = model
        self.rates = [model.drop_path * i / max(model.layers - 1, 1) for i in range(model.layers)]

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None = None,
        lengths: Tensor | None = None,
        rows: Tensor | None = None,
        top: int = 1,
        target: Target = "block",
        layer_seed: int = 0,
    ) -> list[Tensor]:
        """Return the outputs of the last `top` blocks, or of their feed-forward layers, [B, N, H] each; x [B, N, H].

        bias [h, N, >= N]; lengths int64 [B]. With rows [B, M], the last block's output holds these tokens alone,
        [B, M, H]. layer_seed: the seed of layer drop, the same on every rank.
        """
        config, results = self.config, []
        x, padding = self._enter(x), self._padding(x, lengths)
        paths = self._draw_paths(x)
        kept = kept_layers(len(self.blocks), config.layer_drop if self.training else 0.0, layer_seed)
        rates = (config.dropout or 0.0, config.attention_dropout or 0.0) if self.training else (0.0, 0.0)
        result: Tensor | tuple[Tensor, Tensor]
        for i, block in enumerate(self.blocks):
            here = rows if i == len(self.blocks) - 1 else None
            wanted = i >= len(self.blocks) - top
            if kept[i]:
                branches = (paths[2 * i], paths[2 * i + 1])
                inputs = BlockInputs(bias, lengths, padding, here, *rates, *branches, wanted and target == "ffn")
                result = self._run(block, x, inputs)
            else:
                result = x if here is None else select_tokens(x, here)
            x, output = result if isinstance(result, tuple) else (result, result)
            if wanted:
                results.append(output)
        return results

    def _enter(self, x: Tensor) -> Tensor:
        x = x if self.norm is None else self.norm(x)
        x = dropout(x, self.config.dropout or 0.0) if self.training else x
        return x.float() if self.config.norm == "pre" else x

    def _padding(self, x: Tensor, lengths: Tensor | None) -> Tensor | None:
        """Return the lengths as a bias if fused kernels run; on a CPU compiled blocks make their own."""
        if lengths is None or not on_gpu_or_compiled(x):
            return None
        return padding_bias(lengths, x.shape[1], next(self.blocks.parameters()).dtype)

    def _run(self, block: nn.Module, x: Tensor, inputs: BlockInputs) -> Tensor | tuple[Tensor, Tensor]:
        if self.config.activation_checkpointing and self.training:
            return checkpoint(block, x, inputs, use_reentrant=False)
        return block(x, inputs)

    def _draw_paths(self, x: Tensor) -> list[Path]:
        """Draw stochastic depth of every branch in order, all with one draw and one copy to the device."""
        rates = [rate for rate in self.rates for _ in range(2)] if self.training else [0.0] * (2 * len(self.rates))
        if not any(rates):
            return [None] * len(rates)
        kept = torch.rand(len(rates), len(x)) >= torch.tensor(rates)[:, None]  # on the CPU: no wait for the device
        return factors(kept, rates, x.device) if self.config.compile else kept_samples(kept, rates, x.device)


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
