"""The network of series. It becomes models/series.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from configs.modality_config import ModalityConfig
from data_shards.batch import SampleBatch
from models.layers.masked import Masked, of_each_mask
from models.network import Network


class SeriesNetwork(Network):
    """Four values a token, learned positions, a learned mask vector."""

    first_module = "embedding"

    def __init__(self, config: ModalityConfig, blocks: nn.ModuleList | None = None) -> None:
        super().__init__(config, blocks)
        width = config.model.width
        self.embedding = nn.Linear(4, width)
        self.mask = nn.Parameter(torch.zeros(width))
        self.positions = nn.Embedding(config.series.tokens, width)
        self._add_transformer(config, nn.Linear(width, width), blocks)
        self._initialise_blocks()

    def student_teacher_inputs(self, batch: SampleBatch) -> tuple[Tensor, Tensor]:
        values = batch.inputs.to(self.mask.dtype).unflatten(1, (-1, 4)) / 128
        return values, values

    def embed(self, inputs: Tensor) -> Tensor:
        return self.embedding(inputs)

    def forward(
        self, x: Tensor, lengths: Tensor | None, mask: Tensor | None = None, rows: Tensor | None = None, **asked: Any
    ) -> list[Tensor]:
        x = x if mask is None else torch.where(mask[..., None], self.mask, x)
        return self.encoder(x + self.positions.weight, lengths=lengths, rows=rows, **asked)

    def visible(self, x: Tensor, masked: Masked, **asked: Any) -> list[Tensor]:
        return self.encoder(of_each_mask(x + self.positions.weight, masked.visible), lengths=masked.lengths, **asked)

    def content(self, batch: SampleBatch) -> Tensor:
        return torch.ones(len(batch), batch.tokens, dtype=torch.bool, device=batch.inputs.device)
