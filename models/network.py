"""What the networks of all modalities have in common: the way from a micro-batch to predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from configs.modality_config import ModalityConfig
from data_shards.batch import MaskedBatch
from models.transformer import Encoder, initialise_blocks, layer_norm


class Network(nn.Module, ABC):
    """One modality's way: views of the batch, what each token says on its own, the encoder, the regression head.

    B samples, T tokens, H width. The final norm is there where the blocks are pre-norm.
    """

    prefix = 0
    """Tokens that stand in front of the sample's own in the encoder's outputs."""
    encoder: Encoder
    norm: nn.Module | None
    head: nn.Module

    def _add_transformer(
        self, config: ModalityConfig, head: nn.Module, blocks: nn.ModuleList | None, input_norm: bool = False
    ) -> None:
        """Encoder, final norm and head. `blocks`: those shared with other modalities; None makes own ones."""
        form = config.published
        self.owns_blocks = blocks is None
        self.encoder = Encoder(config, form, input_norm, blocks)
        self.norm = layer_norm(config.model.width, form.norm_eps) if config.model.norm == "pre" else None
        self.head = head

    def _initialise_blocks(self) -> None:
        if self.owns_blocks:
            initialise_blocks(self.encoder.blocks, self.encoder.config.norm)

    @abstractmethod
    def views(self, batch: MaskedBatch) -> tuple[Tensor, Tensor]:
        """What `local` takes: the student's and the teacher's view of the batch, one tensor where they are the same."""

    @abstractmethod
    def local(self, view: Tensor) -> Tensor:
        """[B, T, H]: what each token says on its own; where the teacher does not average it, both networks share it."""

    @abstractmethod
    def forward(
        self, x: Tensor, lengths: Tensor | None, mask: Tensor | None = None, rows: Tensor | None = None, **asked: Any
    ) -> list[Tensor]:
        """x [B, T, H] of `local`, lengths int64 [B] -> what the encoder hands out, [B, prefix + T, H] each.

        lengths: None where all tokens are real. mask: bool [B, T], the tokens that are hidden. rows: int64 [B, M], the
        tokens whose output the last block computes; its output is then [B, M, H]. asked: `top`, `target` and
        `layer_seed` of `Encoder`.
        """

    def predict(self, x: Tensor) -> Tensor:
        """The last block's output [..., H] -> predictions [..., H]."""
        return self.head(x if self.norm is None else self.norm(x))

    @abstractmethod
    def content(self, batch: MaskedBatch) -> Tensor:
        """bool [B, T]: the tokens whose mean represents a sample."""


def real_tokens(lengths: Tensor, tokens: int) -> Tensor:
    """lengths int64 [B] -> bool [B, T], False behind a sample's end."""
    return torch.arange(tokens, device=lengths.device) < lengths[:, None]
