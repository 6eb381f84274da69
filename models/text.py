"""Subwords to tokens: embedding, learned positions and their norm, as in RoBERTa.

Shapes: B texts of T subwords, V types, H width. Source: fairseq examples/data2vec (models/data2vec_text.py). The
teacher sees the whole text, as in the paper (arXiv 2202.03555, section 3.3); fairseq's sees the masked tokens only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.modality_config import ModalityConfig
from configs.signals import FIRST_POSITION
from data_shards.batch import BOS, EOS, PAD, MaskedBatch, SampleBatch
from models.layers.blocks import INIT_STD, FeedForward, layer_norm
from models.layers.masked import Masked, of_each_mask
from models.network import Around, Network


class Embedding(nn.Module):
    """A vector for each type."""

    def __init__(self, types: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_table(types, width))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [B, T] -> [B, T, H]."""
        return F.embedding(ids, self.weight)


class Positions(nn.Module):
    """A learned vector for each position, added to the token there."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_table(tokens + FIRST_POSITION, width))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, H] -> [B, T, H]."""
        return x + self.weight[FIRST_POSITION : FIRST_POSITION + x.shape[1]]


def _table(rows: int, width: int) -> Tensor:
    """Return [rows, H], normal of deviation 0.02 with a zero row for <pad>."""
    table = torch.empty(rows, width).normal_(std=INIT_STD)
    table[PAD] = 0
    return table


class TextNetwork(Network):
    """Subwords to block outputs, and the regression head."""

    first_module = "embedding"

    def __init__(self, config: ModalityConfig, blocks: nn.ModuleList | None = None) -> None:
        """Make the network; see `Network`."""
        super().__init__(config, blocks)
        width, text = config.model.width, config.text
        self.embedding = Embedding(text.vocab_size, width)
        self.positions = Positions(text.max_tokens, width)
        self.norm_embeddings = layer_norm(width, config.published.norm_eps)
        self._add_transformer(config, FeedForward(width, 2 * width), blocks)
        self._initialise()

    def student_teacher_inputs(self, batch: SampleBatch) -> tuple[Tensor, Tensor]:
        """Return ids int32 [B, T]: the corrupted ones, if any, for the student, and the whole text for the teacher."""
        return (batch.seen_ids if isinstance(batch, MaskedBatch) else batch.inputs), batch.inputs

    def embed(self, inputs: Tensor) -> Tensor:
        """Return the embedded ids [B, T, H]."""
        return self.embedding(inputs)

    def forward(
        self, x: Tensor, lengths: Tensor | None, mask: Tensor | None = None, rows: Tensor | None = None, **asked: Any
    ) -> list[Tensor]:
        """Return the encoder's outputs; see `Network.forward`. `mask` is unused: the ids are already masked."""
        x = self.norm_embeddings(self.positions(x))
        return self.encoder(x, lengths=lengths, rows=rows, **asked)

    def visible(self, x: Tensor, masked: Masked, **asked: Any) -> list[Tensor]:
        """Return the encoder's outputs for the visible tokens; see `Network.visible`."""
        x = self.norm_embeddings(self.positions(x))
        return self.encoder(of_each_mask(x, masked.visible), lengths=masked.lengths, **asked)

    def content(self, batch: SampleBatch) -> Tensor:
        """Return bool [B, T], True for all tokens but <s>, </s> and <pad>."""
        return (batch.inputs != BOS) & (batch.inputs != EOS) & (batch.inputs != PAD)

    @staticmethod
    def flops_around_blocks(config: ModalityConfig, tokens: np.ndarray) -> Around:
        """Return the operations of the head, of two layers."""
        return Around(0, 0, 0, 8 * config.model.width**2)

    @torch.no_grad()
    def _initialise(self) -> None:
        """Draw BERT's initial weights."""
        self._initialise_blocks()
        for module in self.head.modules() if isinstance(self.head, FeedForward) else ():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)
