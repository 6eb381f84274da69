"""The encoder: a stack of blocks that returns the outputs of the last ones; the same for all modalities.

Shapes: B samples, N tokens, H width, h heads, M selected tokens.

Two savings change no value. Stochastic depth computes a branch only for the samples that keep it. The last block
computes queries, output projection and feed-forward only for the tokens whose outputs are asked for.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from configs.modality_config import ModalityConfig
from configs.published import Published
from models.layers.attention import padding_bias
from models.layers.blocks import BlockInputs, layer_norm, make_blocks, select_tokens
from models.layers.dropout import dropout, on_gpu_or_compiled
from models.layers.stochastic_depth import Path, factors, kept_layers, kept_samples

Target = Literal["block", "ffn"]


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

        bias [h, N, >= N], or without rows [B, h, N, >= N]; lengths int64 [B]. With rows [B, M], the last block's output
        holds these tokens alone, [B, M, H]. layer_seed: the seed of layer drop, the same on every rank.
        """
        config, results = self.config, []
        x, padding = self._enter(x), self._padding(x, lengths)
        paths = self._draw_paths(x)
        kept = kept_layers(len(self.blocks), config.layer_drop if self.training else 0.0, layer_seed)
        rates = (config.dropout, config.attention_dropout) if self.training else (0.0, 0.0)
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
        x = dropout(x, self.config.dropout) if self.training else x
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
