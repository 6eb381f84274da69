"""Waveforms to tokens: normalisation, convolutional feature encoder, mask vector, positional convolutions.

Shapes: B clips of S samples of 16 kHz, T frames of 20 ms, C channels of the feature encoder, H width. Frames are the
last dimension but one throughout, so that LayerNorm needs no transposes. Source: fairseq examples/data2vec
(models/data2vec_audio.py).

A clip's padding does not change its own frames. The feature encoder's convolutions for these frames read only samples
of the clip. The positional convolutions read zeros behind its end, as they do in front of it. Attention stops there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from configs.modality_config import ModalityConfig
from configs.published import PUBLISHED
from configs.schema_modalities import SpeechConfig
from configs.signals import CONV_KERNELS, CONV_STRIDES, samples_of
from data_shards.batch import SampleBatch
from models.layers.blocks import layer_norm, select_tokens
from models.layers.masked import Masked, real_tokens, without
from models.network import Around, Network

_EPS = PUBLISHED["v1", "speech"].norm_eps


def normalise(clips: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """clips int16 [B, S], scale [B, 2] of mean and 1 / deviation -> [B, S] of `dtype`."""
    mean, inverse = scale.float()[..., None].unbind(1)
    return ((clips.float() - mean) * inverse).to(dtype)


class Convolution(nn.Module):
    """A convolution without bias or padding, as matrix products.

    On a CPU the seven layers with their norms take half the time of `conv1d`'s (4 clips of 5 s, 512 channels, one
    thread, forward and backward: 4.6 s against 9.3 s), and they need neither transposes nor copies of windows.
    """

    def __init__(self, channels_in: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.kaiming_normal_(torch.empty(channels, channels_in, kernel)))
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, C] -> [B, (T - kernel) // stride + 1, C']."""
        return _Products.apply(x.contiguous(), self.weight, self.stride)


class _Products(torch.autograd.Function):
    """A strided convolution as a sum over runs of `stride` taps. The windows of a run are a view of the input."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.frames = stride, (x.shape[1] - weight.shape[2]) // stride + 1
        runs = [run.mT.expand(len(x), -1, -1) for run in _runs(weight, ctx)]
        first, *others = zip(_windows(x, weight, ctx), runs, strict=True)
        out = torch.bmm(*first)
        for windows, run in others:
            torch.baddbmm(out, windows, run, out=out)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        d_runs = [torch.bmm(grad.mT, windows).sum(0) for windows in _windows(x, weight, ctx)]
        d_weight = torch.cat(d_runs, 1).unflatten(1, (-1, x.shape[2])).transpose(1, 2)
        if not ctx.needs_input_grad[0]:
            return None, d_weight, None
        d_x = torch.zeros_like(x)
        for windows, run in zip(_windows(d_x, weight, ctx), _runs(weight, ctx), strict=True):
            torch.baddbmm(windows, grad, run.expand(len(x), -1, -1), out=windows)
        return d_x, d_weight, None


def _windows(x: Tensor, weight: Tensor, ctx) -> list[Tensor]:
    """Return each run's windows as a view [B, T', taps * C] of x [B, T, C]. The rows of a view do not overlap."""
    (samples, _, channels), kernel, stride = x.shape, weight.shape[2], ctx.stride
    strides, offset = (x.stride(0), stride * channels, 1), x.storage_offset()
    taps = [(first, min(stride, kernel - first)) for first in range(0, kernel, stride)]
    return [x.as_strided((samples, ctx.frames, n * channels), strides, offset + i * channels) for i, n in taps]


def _runs(weight: Tensor, ctx) -> list[Tensor]:
    """Return the matrix [C', taps * C] of each run of taps of weight [C', C, kernel]."""
    return [run.flatten(1) for run in weight.transpose(1, 2).split(ctx.stride, 1)]


class ConvLayer(nn.Module):
    """Convolution, LayerNorm over channels, GELU."""

    def __init__(self, channels_in: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = Convolution(channels_in, channels, kernel, stride)
        self.norm = layer_norm(channels, _EPS)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, C] -> [B, (T - kernel) // stride + 1, C']."""
        return F.gelu(self.norm(self.conv(x)))


class FeatureEncoder(nn.Module):
    """Seven convolutions: 16 kHz to 50 Hz."""

    def __init__(self, channels: int, checkpointing: bool) -> None:
        super().__init__()
        widths = [1] + [channels] * len(CONV_KERNELS)
        shapes = zip(widths, widths[1:], CONV_KERNELS, CONV_STRIDES, strict=False)
        self.layers = nn.ModuleList(ConvLayer(*shape) for shape in shapes)
        self.checkpointing = checkpointing

    def forward(self, waveform: Tensor) -> Tensor:
        """[B, S] -> [B, T, C], T = data_shards.batch.frames(S)."""
        x = waveform[..., None]
        for layer in self.layers:
            recompute = self.checkpointing and self.training
            x = checkpoint(layer, x, use_reentrant=False) if recompute else layer(x)
        return x


class Projection(nn.Module):
    """LayerNorm, then C channels to the Transformer's width."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm = layer_norm(channels, _EPS)
        self.linear = nn.Linear(channels, width)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, C] -> [B, T, H]."""
        return self.linear(self.norm(x))


class Masking(nn.Module):
    """One learned vector in place of masked frames."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, T, H], mask bool [B, T] -> [B, T, H]."""
        return torch.where(mask[..., None], self.vector, x)


class PositionLayer(nn.Module):
    """A grouped convolution over frames, LayerNorm without affine, GELU."""

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, H] -> [B, T, H]."""
        x = self.conv(x.transpose(1, 2)).transpose(1, 2)
        return F.gelu(F.layer_norm(x, x.shape[-1:], eps=_EPS))


class Positions(nn.Module):
    """Position features of frames, by stacked convolutions over neighbours. The network adds them to the frames."""

    def __init__(self, width: int, layers: int, kernel: int, groups: int, leaky: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(PositionLayer(width, kernel, groups) for _ in range(layers))
        self.leaky = leaky

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """x [B, T, H], 0 at padding, bool [B, T, 1] -> [B, T, H]. Unless leaky, every layer's input is 0 there."""
        first, *others = self.layers
        x = first(x)
        for layer in others:
            x = layer(x if self.leaky else without(x, padding))
        return x


class SpeechNetwork(Network):
    """Waveforms to block outputs, and the regression head."""

    first_module = "feature_encoder"

    def __init__(self, config: ModalityConfig, blocks: nn.ModuleList | None = None) -> None:
        """Make the network; see `Network`."""
        super().__init__(config, blocks)
        width, speech = config.model.width, config.speech
        layers, kernel, groups = speech.position_layers, speech.position_kernel, speech.position_groups
        self.feature_encoder = FeatureEncoder(speech.conv_width, config.model.activation_checkpointing)
        self.projection = Projection(speech.conv_width, width)
        self.masking = Masking(width) if config.masks is None else None
        self.positions = Positions(width, layers, kernel, groups, speech.leaky_positions)
        self._add_transformer(config, nn.Linear(width, width), blocks, input_norm=True)
        self._initialise_blocks()

    def student_teacher_inputs(self, batch: SampleBatch) -> tuple[Tensor, Tensor]:
        """Return the normalised waveforms [B, S] in the parameters' dtype, the same for both networks."""
        assert batch.scale is not None
        waveform = normalise(batch.inputs, batch.scale, self.projection.linear.weight.dtype)
        return waveform, waveform

    def embed(self, inputs: Tensor) -> Tensor:
        """Return the projected features of the waveforms, [B, T, H]."""
        return self.projection(self.feature_encoder(inputs))

    def forward(
        self, x: Tensor, lengths: Tensor | None, mask: Tensor | None = None, rows: Tensor | None = None, **asked: Any
    ) -> list[Tensor]:
        """Return the encoder's outputs; see `Network.forward`."""
        padding = None if lengths is None else ~real_tokens(lengths, x.shape[1])[..., None]
        if mask is not None:
            assert self.masking is not None, "data2vec 2.0 has no mask vector"
            x = self.masking(x, mask)
        x = without(x, padding)
        return self.encoder(x + self.positions(x, padding), lengths=lengths, rows=rows, **asked)

    def visible(self, x: Tensor, masked: Masked, **asked: Any) -> list[Tensor]:
        """Return the encoder's outputs for the visible frames; see `Network.visible`.

        The positional convolutions read zeros at hidden frames, as published.
        """
        x = without(x.repeat_interleave(len(masked.mask) // len(x), 0), ~masked.seen[..., None])
        x = x + self.positions(x, masked.padding)
        return self.encoder(select_tokens(x, masked.visible), lengths=masked.lengths, **asked)

    def content(self, batch: SampleBatch) -> Tensor:
        """Return bool [B, T], True for all real frames."""
        return real_tokens(batch.lengths, batch.tokens)

    @staticmethod
    def flops_around_blocks(config: ModalityConfig, tokens: np.ndarray) -> Around:
        """Return the operations of the feature encoder, the positional convolutions and the head."""
        width, speech = config.model.width, config.speech
        first, *others = _convolution_flops(speech, tokens)
        projection = 2 * tokens * speech.conv_width * width
        window = speech.position_layers * speech.position_kernel
        positions = 2 * tokens * window * width**2 / speech.position_groups
        return Around(first, sum(others) + projection, positions, 2 * width**2)


def _convolution_flops(speech: SpeechConfig, frames: np.ndarray) -> list[np.ndarray]:
    """Return the forward operations of each layer of the feature encoder, float64 [B] each."""
    length, channels, operations = samples_of(frames), 1, []
    for kernel, stride in zip(CONV_KERNELS, CONV_STRIDES, strict=True):
        length = (length - kernel) // stride + 1
        operations.append(2.0 * length * kernel * channels * speech.conv_width)
        channels = speech.conv_width
    return operations
