"""The base of the networks of all modalities: from a micro-batch to predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from configs.modality_config import ModalityConfig
from data_shards.batch import SampleBatch
from models.layers.blocks import initialise_blocks, layer_norm
from models.layers.decoder import Decoder
from models.layers.masked import Masked
from models.transformer import Encoder


class Around(NamedTuple):
    """Forward operations of samples outside the blocks, float64 [B] or one number."""

    first: np.ndarray | float
    """The first layer. Its input is the sample, which needs no gradient."""
    local: np.ndarray | float
    """The rest of the local encoder."""
    positions: np.ndarray | float
    head: float
    """The regression head, for one token."""


class Network(nn.Module, ABC):
    """One modality's network: the inputs, the local encoder, the Transformer, the regression head.

    B samples, T tokens, H width. Networks of pre-norm blocks have a final norm.
    """

    prefix = 0
    """Tokens that stand in front of the sample's own in the encoder's outputs."""
    first_module: str
    """Name of the first child that has weights: its outputs are watched for collapse."""
    encoder: Encoder
    norm: nn.Module | None
    head: nn.Module

    @abstractmethod
    def __init__(self, config: ModalityConfig, blocks: nn.ModuleList | None = None) -> None:
        """Make the network. `config` has passed `configs.checks.run.check_sizes`.

        blocks: the blocks that all modalities share; None: the network makes its own.
        """
        super().__init__()

    def _add_transformer(
        self, config: ModalityConfig, head: nn.Module, blocks: nn.ModuleList | None, input_norm: bool = False
    ) -> None:
        """Make encoder, final norm and head. blocks: shared with other modalities; None: the network makes its own.

        head: of data2vec; data2vec 2.0 has a decoder in its place.
        """
        form = config.published
        self.owns_blocks = blocks is None
        self.encoder = Encoder(config, form, input_norm, blocks)
        self.norm = layer_norm(config.model.width, form.norm_eps) if config.model.norm == "pre" else None
        grid = config.vision.grid if config.modality == "vision" else 0
        self.head = Decoder(config.model.width, config.decoder, grid) if config.decoder else head

    def _initialise_blocks(self) -> None:
        if self.owns_blocks:
            initialise_blocks(self.encoder.blocks, self.encoder.config.norm)

    @abstractmethod
    def student_teacher_inputs(self, batch: SampleBatch) -> tuple[Tensor, Tensor]:
        """Return the inputs of `embed` for the student and for the teacher: one tensor if they are the same."""

    @abstractmethod
    def embed(self, inputs: Tensor) -> Tensor:
        """Return the local features of each token, [B, T, H], before any token sees another."""

    @abstractmethod
    def forward(
        self, x: Tensor, lengths: Tensor | None, mask: Tensor | None = None, rows: Tensor | None = None, **asked: Any
    ) -> list[Tensor]:
        """Return the encoder's outputs, [B, prefix + T, H] each. x: [B, T, H], from `embed`.

        lengths: int64 [B]; None: all tokens are real. mask: bool [B, T], True for hidden tokens. rows: int64 [B, M],
        the tokens whose output the last block computes; its output is then [B, M, H]. asked: `top`, `target` and
        `layer_seed` of `Encoder.forward`.
        """

    @abstractmethod
    def visible(self, x: Tensor, masked: Masked, **asked: Any) -> list[Tensor]:
        """Return the encoder's outputs where it sees the visible tokens of each mask alone, [N, prefix + V, H] each.

        x: [B, T, H], from `embed`. asked: `layer_seed` of `Encoder.forward`.
        """

    def predict_hidden(self, x: Tensor, masked: Masked, noise_keys: Tensor) -> Tensor:
        """Return the decoder's predictions at the hidden tokens, [N, R, H].

        x: [N, prefix + V, H], normalised outputs of the last block from `visible`. noise_keys: int64 [N].
        """
        return self.head(x[:, self.prefix :], masked, noise_keys)

    def predict(self, x: Tensor) -> Tensor:
        """Return the predictions [..., H] for outputs [..., H] of the last block."""
        return self.head(x if self.norm is None else self.norm(x))

    @abstractmethod
    def content(self, batch: SampleBatch) -> Tensor:
        """Return bool [B, T], True for the tokens whose mean represents a sample."""

    @staticmethod
    def flops_around_blocks(config: ModalityConfig, tokens: np.ndarray) -> Around:
        """Return the forward operations of each sample before and after the blocks; `tokens` float64 [B].

        The head is data2vec's: `models.flops` counts the decoder of 2.0.
        """
        return Around(0, 0, 0, 2 * config.model.width**2)
