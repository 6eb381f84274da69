"""The decoder of data2vec 2.0: noise at the hidden places, convolutions over the whole sample, predictions there.

Shapes: N masks, each of a sample of T tokens; V visible and R hidden tokens, both padded to a common number; H width of
the encoder, D of the decoder. Source: fairseq examples/data2vec (models/modalities/modules.py, Decoder1d, Decoder2d).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.published import DecoderSizes
from models.layers.blocks import select_tokens
from models.layers.dropout import dropout
from models.layers.masked import Masked, without
from models.layers.noise import normal_noise

NOISE = 0.01
"""Standard deviation of the noise at hidden places."""
_EPS = 1e-5


class Layer(nn.Module):
    """A grouped convolution over tokens, LayerNorm without affine, GELU, and the input added where it fits."""

    def __init__(self, channels: int, sizes: DecoderSizes, grid: int) -> None:
        """grid: patches a side of an image, convolved in both directions; 0: tokens in a line."""
        super().__init__()
        convolution = nn.Conv2d if grid else nn.Conv1d
        self.conv = convolution(channels, sizes.width, sizes.kernel, padding=sizes.kernel // 2, groups=sizes.groups)
        self.residual, self.grid = sizes.residual and channels == sizes.width, grid

    def forward(self, x: Tensor) -> Tensor:
        """x [N, T, H or D] -> [N, T, D]."""
        y = x.transpose(1, 2)
        y = self.conv(y.unflatten(2, (self.grid, self.grid)) if self.grid else y).flatten(2).transpose(1, 2)
        y = F.gelu(F.layer_norm(y, y.shape[-1:], eps=_EPS))
        return x + y if self.residual else y


class Decoder(nn.Module):
    """Convolutions and the prediction of targets."""

    def __init__(self, width: int, sizes: DecoderSizes, grid: int = 0) -> None:
        """Make the decoder with torch's initial weights, as published. width: the encoder's; grid: see `Layer`."""
        super().__init__()
        channels = [width] + [sizes.width] * sizes.layers
        self.layers = nn.ModuleList(Layer(own, sizes, grid) for own in channels[:-1])
        between = [nn.Linear(sizes.width, sizes.hidden), nn.GELU()] if sizes.hidden else []
        self.project = nn.Sequential(*between, nn.Linear(sizes.hidden or sizes.width, width))
        self.rate = sizes.dropout

    def forward(self, x: Tensor, masked: Masked, noise_keys: Tensor) -> Tensor:
        """Return the predictions at the hidden places, [N, R, H].

        x: [N, V, H], the encoder's outputs at `masked.visible`. noise_keys: int64 [N].
        """
        x = self._restored(dropout(x, self.rate) if self.training else x, masked, noise_keys)
        for layer in self.layers:
            x = layer(without(x, masked.padding))
        return self.project(select_tokens(x, masked.hidden))

    @staticmethod
    def _restored(x: Tensor, masked: Masked, noise_keys: Tensor) -> Tensor:
        """Return [N, T, H]: the outputs x [N, V, H] at the visible places in their order, noise at the hidden ones."""
        noise = normal_noise(noise_keys, masked.hidden, x.shape[-1], NOISE, x.dtype)
        place = torch.where(masked.mask, masked.mask.cumsum(1) + x.shape[1], masked.seen.cumsum(1)) - 1
        # Places behind a sample's end read some other token: every layer's input is 0 there.
        return select_tokens(torch.cat([x, noise], 1), place.clamp(0, x.shape[1] + noise.shape[1] - 1))
