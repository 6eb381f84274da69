"""Pictures of the samples of a masked batch: images with hatched patches, spectrograms with shaded frames."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from data_shards.batch import MaskedBatch
from data_shards.showing.log_mel import log_mel

PICTURE_SIDE = 112
"""Side in pixels that smaller images are enlarged to, at least."""
_GREY, _HATCH = 128, 168  # grey of masked patches, grey of their stripes
_SHADE = (255.0, 140.0, 0.0)  # laid half over the masked frames of a spectrogram
_ZOOM = 2  # pixels per frame and band of a spectrogram
_STRIP = 10  # height in pixels of a strip of errors


class Pair(NamedTuple):
    """Pictures uint8 [B, 3, h, w] of the samples of a batch."""

    whole: Tensor
    """The teacher's input."""
    masked: Tensor
    """The same, with the parts marked that the student has to predict."""


def images(batch: MaskedBatch, number: int = 0) -> Pair:
    """Pictures of images, colours jittered, not normalised. The second ones hatch the patches of mask `number`."""
    assert batch.color is not None
    whole = enlarge(jitter_colors(batch.inputs, batch.color), PICTURE_SIDE)
    hidden = _pixel_mask(batch.masks[:, number], whole.shape[-1])
    return Pair(whole, torch.where(hidden, _hatching(whole.shape[-1]), whole))


def jitter_colors(inputs: Tensor, color: Tensor) -> Tensor:
    """Images uint8 [B, 3, S, S] under the colour maps [B, 3, 4], as the model applies them before it normalises."""
    pixels = inputs.flatten(2).float() / 255
    mapped = torch.baddbmm(color[..., 3:].float(), color[..., :3].float(), pixels).clamp(0, 1)
    return (mapped * 255).round().to(torch.uint8).view(inputs.shape)


def enlarge(images: Tensor, side: int) -> Tensor:
    """Enlarge images [B, 3, S, S] by the least whole factor that makes them at least `side` wide."""
    factor = max(1, math.ceil(side / images.shape[-1]))
    return images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def _pixel_mask(mask: Tensor, side: int) -> Tensor:
    """Pixel masks bool [B, 1, side, side] of patch masks [B, T] in row-major order."""
    grid = math.isqrt(mask.shape[1])
    assert grid**2 == mask.shape[1], f"{mask.shape[1]} patches are not a square"
    patches = mask.reshape(-1, 1, grid, grid).float()
    return interpolate(patches, size=(side, side), mode="nearest").bool()


def heat(images: Tensor, errors: Tensor) -> Tensor:
    """Pictures uint8 [B, 3, S, S] of the errors [B, T] of patches: black, red, yellow, white from 0 to the largest.

    Where a patch has none the image shows, faint and grey.
    """
    faint = (images.float().mean(1, keepdim=True) / 2 + 127).to(torch.uint8).expand_as(images)
    colours = _hot(errors)
    grid, side = math.isqrt(errors.shape[1]), images.shape[-1]
    patches = colours.reshape(-1, grid, grid, 3).permute(0, 3, 1, 2).float()
    return torch.where(_pixel_mask(errors > 0, side), interpolate(patches, size=(side, side)).to(torch.uint8), faint)


def _hot(errors: Tensor) -> Tensor:
    """Colours uint8 [..., 3] from 0 to the largest error: black, red, yellow, white."""
    thirds = 3 * (errors / errors.max().clamp(min=1e-12))[..., None] - torch.arange(3)
    return (thirds.clamp(0, 1) * 255).round().to(torch.uint8)


def _hatching(side: int) -> Tensor:
    """Hatching uint8 [1, side, side]: grey with diagonal stripes, which hardly any image contains."""
    diagonal = torch.arange(side)[:, None] + torch.arange(side)[None, :]
    return torch.where(diagonal % 8 < 2, _HATCH, _GREY).to(torch.uint8)[None]


def heat_strips(errors: Tensor) -> Tensor:
    """Strips uint8 [B, 3, h, w] of the errors [B, T] of frames, in colours as `heat`; white where a frame has none."""
    colours = torch.where(errors[..., None] > 0, _hot(errors), 255).to(torch.uint8)
    strips = colours.permute(0, 2, 1)[:, :, None]
    return strips.repeat_interleave(_STRIP, 2).repeat_interleave(_ZOOM, 3)


def spectrograms(batch: MaskedBatch) -> Pair:
    """Log-mel spectrograms of clips, two pixels a frame, low tones at the bottom. The second ones shade masked frames.

    All have one scale of grey. Beyond a clip's end the picture is white.
    """
    bands = log_mel(batch)
    ended = torch.arange(bands.shape[1]) >= batch.lengths[:, None]
    low, high = bands[~ended].min(), bands[~ended].max()
    grey = ((bands - low) / (high - low + 1e-6) * 255)[..., None].expand(-1, -1, -1, 3)
    shaded = torch.where(batch.masks[:, 0, :, None, None], (grey + torch.tensor(_SHADE)) / 2, grey)
    return Pair(_upright(grey, ended), _upright(shaded, ended))


def _upright(pixels: Tensor, ended: Tensor) -> Tensor:
    """Pictures uint8 [B, 3, h, w] of pixels [B, T, MELS, 3]; white where `ended` [B, T]."""
    inked = torch.where(ended[..., None, None], 255.0, pixels).clamp(0, 255).to(torch.uint8)
    upright = inked.permute(0, 3, 2, 1).flip(2)
    return upright.repeat_interleave(_ZOOM, 2).repeat_interleave(_ZOOM, 3)
