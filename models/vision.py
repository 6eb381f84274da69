"""Images to tokens: normalisation, patch embedding, mask and CLS vectors, relative positions, the vision Transformer.

Shapes: B images of S pixels a side, patches of P pixels, g = S / P patches a side, T = g * g patches, H width.
Sources: data2vec.md section 2.1 (the code behind the paper's vision numbers).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.schema import PretrainConfig
from models.transformer import Encoder, layer_norm

INIT_STD = 0.02  # and cut off at +-0.02, one sigma
_ALIGNMENT = 8  # columns: fused attention copies a bias whose rows are not aligned to this, in every block


def normalise(
    images: Tensor, color: Tensor, mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype
) -> Tensor:
    """uint8 [B, 3, S, S] -> [B, 3, S, S] of `dtype`: x / 255, the affine map color [B, 3, 4], clamp, normalise."""
    pixels = images.flatten(2).float().div_(255)
    pixels = torch.baddbmm(color[..., 3:].float(), color[..., :3].float(), pixels).clamp_(0, 1)
    shift, scale = torch.tensor([mean, std], device=images.device)[..., None]
    return pixels.sub_(shift).div_(scale).view(images.shape).to(dtype)


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """[B, 3, S, S] -> [B, T, 3 * P * P], patches in row-major order, each laid out as a convolution's weight."""
    grid = images.unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size))  # [B, 3, g, P, g, P]
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


class PatchEmbedding(nn.Module):
    """The convolution with kernel = stride = P, as the matrix product that it is."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, 3, patch_size, patch_size))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, patches: Tensor) -> Tensor:
        """patches [B, T, 3 * P * P] -> [B, T, H]."""
        return F.linear(patches, self.weight.flatten(1), self.bias)


class Tokens(nn.Module):
    """The mask vector in place of masked patches, then the CLS vector in front."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.empty(1, 1, width))
        self.mask = nn.Parameter(torch.empty(1, 1, width))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x [B, T, H], mask bool [B, T] -> [B, 1 + T, H]."""
        if mask is not None:
            x = torch.where(mask[..., None], self.mask, x)
        return torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1)


class RelativePositions(nn.Module):
    """One bias table for all blocks: an entry per offset, then cls to token, token to cls, cls to cls."""

    index: Tensor

    def __init__(self, grid: int, heads: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros((2 * grid - 1) ** 2 + 3, heads))
        index = relative_position_index(grid)
        self.register_buffer("index", F.pad(index, (0, -len(index) % _ALIGNMENT)), persistent=False)

    def forward(self) -> Tensor:
        """[heads, N, N'] with N = 1 + T; the columns beyond N only align the rows."""
        return F.embedding(self.index, self.table).permute(2, 0, 1).contiguous()


def relative_position_index(grid: int) -> Tensor:
    """int64 [1 + T, 1 + T]: the row of BEiT's table for each (query, key)."""
    side = 2 * grid - 1
    y, x = torch.arange(grid).repeat_interleave(grid), torch.arange(grid).repeat(grid)
    index = torch.empty(grid**2 + 1, grid**2 + 1, dtype=torch.int64)
    index[1:, 1:] = (y[:, None] - y + grid - 1) * side + (x[:, None] - x + grid - 1)
    index[0, :], index[:, 0], index[0, 0] = side**2, side**2 + 1, side**2 + 2
    return index


def truncated_normal_(x: Tensor) -> None:
    """Fill with a normal of standard deviation INIT_STD cut off at one sigma.

    By the inverse distribution function: torch's `trunc_normal_` redraws what falls outside, 15 times slower.
    """
    bound = math.erf(math.sqrt(0.5))
    x.uniform_(-bound, bound).erfinv_().mul_(math.sqrt(2) * INIT_STD).clamp_(-INIT_STD, INIT_STD)


class VisionTransformer(nn.Module):
    """Patches to block outputs, and the regression head; positions come from the relative bias alone."""

    def __init__(self, config: PretrainConfig) -> None:
        """`config` has passed `configs.checks.check_sizes`."""
        super().__init__()
        width, vision = config.model.width, config.vision
        self.patch_embedding = PatchEmbedding(width, vision.patch_size)
        self.tokens = Tokens(width)
        self.positions = RelativePositions(vision.grid, config.model.heads)
        self.encoder = Encoder(config.model)
        self.norm = layer_norm(width)
        self.head = nn.Linear(width, width)
        self.initialise()

    def forward(
        self, patches: Tensor, mask: Tensor | None = None, rows: Tensor | None = None, top: int = 1
    ) -> list[Tensor]:
        """patches [B, T, 3 * P * P] -> float32 outputs of the last `top` blocks, [B, 1 + T, H] each.

        mask: bool [B, T], patches replaced by the mask vector. rows: int64 [B, M], the patches whose output the last
        block computes; its output is then [B, M, H].
        """
        x = self.tokens(self.patch_embedding(patches), mask)
        return self.encoder(x, self.positions(), None if rows is None else rows + 1, top)

    @torch.no_grad()
    def initialise(self) -> None:
        """Truncated normal weights, then the outputs of block l (from 1) divided by sqrt(2 l)."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and not name.endswith("positions.table"):
                truncated_normal_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        for number, block in enumerate(self.encoder.blocks, start=1):
            for output in ("attention.proj.weight", "feed_forward.fc2.weight"):
                block.get_parameter(output).div_(math.sqrt(2 * number))
