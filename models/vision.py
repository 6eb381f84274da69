"""Images to tokens: normalisation, patch embedding, mask and CLS vectors, relative positions, the vision network.

Shapes: B images of S pixels a side, patches of P pixels, g = S / P patches a side, T = g * g patches, H width.
Source: the authors' code (data2vec_vision), which gave the paper's vision results.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.modality_config import ModalityConfig
from data_shards.batch import SampleBatch
from models.layers.attention import ALIGNMENT
from models.layers.blocks import truncated_normal_
from models.layers.masked import Masked, of_each_mask
from models.network import Around, Network


def normalise(
    images: Tensor, color: Tensor, mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype
) -> Tensor:
    """uint8 [B, 3, S, S] -> [B, 3, S, S] of `dtype`: x / 255, the affine map color [B, 3, 4], clamp, normalise."""
    pixels = images.contiguous().flatten(2).float().div_(255)  # loaders place the channels of a pixel side by side
    pixels = torch.baddbmm(color[..., 3:].float(), color[..., :3].float(), pixels).clamp_(0, 1)
    shift, scale = torch.tensor([mean, std], device=images.device)[..., None]
    return pixels.sub_(shift).div_(scale).view(images.shape).to(dtype)


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """[B, 3, S, S] -> [B, T, 3 * P * P], patches in row-major order, each laid out as a convolution's weight."""
    grid = images.unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size))  # [B, 3, g, P, g, P]
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


class PatchEmbedding(nn.Module):
    """The convolution with kernel = stride = P, computed as the matrix product that it is."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, 3, patch_size, patch_size))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, patches: Tensor) -> Tensor:
        """patches [B, T, 3 * P * P] -> [B, T, H]."""
        return F.linear(patches, self.weight.flatten(1), self.bias)


class Tokens(nn.Module):
    """The mask vector in place of masked patches, then the CLS vector in front."""

    def __init__(self, width: int, has_mask: bool) -> None:
        """has_mask: False for data2vec 2.0, whose student sees no masked patch."""
        super().__init__()
        self.cls = nn.Parameter(torch.empty(1, 1, width))
        self.mask = nn.Parameter(torch.empty(1, 1, width)) if has_mask else None

    def forward(self, x: Tensor, mask: Tensor | None, positions: nn.Module | None = None) -> Tensor:
        """x [B, T, H], mask bool [B, T] -> [B, 1 + T, H]. positions: added to the patches, the masked ones too."""
        if mask is not None:
            assert self.mask is not None
            x = torch.where(mask[..., None], self.mask, x)
        x = x if positions is None else positions(x)
        return torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1)


class RelativePositions(nn.Module):
    """One bias table for all blocks: an entry per offset, then cls to token, token to cls, cls to cls."""

    index: Tensor

    def __init__(self, grid: int, heads: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros((2 * grid - 1) ** 2 + 3, heads))
        index = relative_position_index(grid)
        self.register_buffer("index", F.pad(index, (0, -len(index) % ALIGNMENT)), persistent=False)

    def forward(self, rows: Tensor | None = None) -> Tensor:
        """Return the bias [heads, N, N'], N = 1 + T; the columns beyond N only align the rows.

        rows: int64 [B, N], tokens between which the bias is asked for; it is then [B, heads, N, N'].
        """
        if rows is None:
            return F.embedding(self.index, self.table).permute(2, 0, 1).contiguous()
        keys = F.pad(rows, (0, -rows.shape[1] % ALIGNMENT))
        places = rows[:, :, None] * self.index.shape[1] + keys[:, None]
        index = self.index.flatten()[places]
        return F.embedding(index, self.table).permute(0, 3, 1, 2).contiguous()


def relative_position_index(grid: int) -> Tensor:
    """Return int64 [1 + T, 1 + T]: the row of BEiT's table for each (query, key)."""
    side = 2 * grid - 1
    y, x = torch.arange(grid).repeat_interleave(grid), torch.arange(grid).repeat(grid)
    index = torch.empty(grid**2 + 1, grid**2 + 1, dtype=torch.int64)
    index[1:, 1:] = (y[:, None] - y + grid - 1) * side + (x[:, None] - x + grid - 1)
    index[0, :], index[:, 0], index[0, 0] = side**2, side**2 + 1, side**2 + 2
    return index


def sincos_positions(grid: int, width: int) -> Tensor:
    """Return fixed positions float32 [T, H]: sines and cosines of a patch's row, then of its column.

    H is a multiple of 4. Frequencies fall from 1 to 1 / 10000. Source: MAE (He et al. 2022, arXiv 2111.06377), which
    data2vec 2.0 follows.
    """
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], 1)
    return torch.cat([line.repeat_interleave(grid, 0), line.repeat(grid, 1)], 1).float()


class FixedPositions(nn.Module):
    """Sines and cosines that are added to the patches."""

    table: Tensor

    def __init__(self, grid: int, width: int) -> None:
        super().__init__()
        self.register_buffer("table", sincos_positions(grid, width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, H] -> [B, T, H]."""
        return x + self.table.to(x.dtype)


class VisionNetwork(Network):
    """Patches to block outputs, and the regression head.

    Positions come from a relative bias in the attention alone, or are fixed vectors added to the patches.
    """

    prefix = 1  # CLS
    first_module = "patch_embedding"

    def __init__(self, config: ModalityConfig, blocks: nn.ModuleList | None = None) -> None:
        """Make the network; see `Network`."""
        super().__init__(config, blocks)
        width, vision = config.model.width, config.vision
        self.config = vision
        self.patch_embedding = PatchEmbedding(width, vision.patch_size)
        self.tokens = Tokens(width, has_mask=config.masks is None)
        relative = vision.positions == "relative"
        self.positions = RelativePositions(vision.grid, config.model.heads) if relative else None
        self.fixed_positions = None if relative else FixedPositions(vision.grid, width)
        self._add_transformer(config, nn.Linear(width, width), blocks)
        self._initialise()

    def student_teacher_inputs(self, batch: SampleBatch) -> tuple[Tensor, Tensor]:
        """Return the normalised patches [B, T, 3 * P * P] in the parameters' dtype, the same for both networks."""
        vision, dtype = self.config, self.patch_embedding.weight.dtype
        assert batch.color is not None
        patches = patchify(normalise(batch.inputs, batch.color, vision.mean, vision.std, dtype), vision.patch_size)
        return patches, patches

    def embed(self, inputs: Tensor) -> Tensor:
        """Return the embedded patches [B, T, H]."""
        return self.patch_embedding(inputs)

    def forward(
        self, x: Tensor, lengths: Tensor | None, mask: Tensor | None = None, rows: Tensor | None = None, **asked: Any
    ) -> list[Tensor]:
        """Return the encoder's outputs; see `Network.forward`. `lengths` is unused: all patches are real."""
        rows = None if rows is None else rows + self.prefix
        bias = None if self.positions is None else self.positions()
        return self.encoder(self.tokens(x, mask, self.fixed_positions), bias, rows=rows, **asked)

    def visible(self, x: Tensor, masked: Masked, **asked: Any) -> list[Tensor]:
        """Return the encoder's outputs for CLS and the visible patches; see `Network.visible`."""
        x = x if self.fixed_positions is None else self.fixed_positions(x)
        x = self.tokens(of_each_mask(x, masked.visible), None)
        rows = F.pad(masked.visible + self.prefix, (self.prefix, 0))
        return self.encoder(x, None if self.positions is None else self.positions(rows), **asked)

    def content(self, batch: SampleBatch) -> Tensor:
        """Return bool [B, T], True for all patches."""
        return torch.ones(len(batch), batch.tokens, dtype=torch.bool, device=batch.inputs.device)

    @staticmethod
    def flops_around_blocks(config: ModalityConfig, tokens: np.ndarray) -> Around:
        """Return the operations of the patch embedding and of the head."""
        width = config.model.width
        return Around(2 * tokens * 3 * config.vision.patch_size**2 * width, 0, 0, 2 * width**2)

    @torch.no_grad()
    def _initialise(self) -> None:
        """Draw weights as published; the position table stays zero.

        With relative positions: truncated normal. Fixed ones are of order 1, and so have to be the patches, or the
        targets would be little but positions: Xavier uniform, and CLS of deviation 1 (fairseq examples/data2vec,
        models/modalities/images.py and base.py).
        """
        for parameter in (self.patch_embedding.weight, self.tokens.cls, self.tokens.mask):
            if parameter is not None:
                truncated_normal_(parameter)
        if self.fixed_positions is not None:
            nn.init.xavier_uniform_(self.patch_embedding.weight.view(len(self.patch_embedding.weight), -1))
            nn.init.normal_(self.tokens.cls)
        self._initialise_blocks()
        if isinstance(self.head, nn.Linear):
            truncated_normal_(self.head.weight)
            nn.init.zeros_(self.head.bias)
