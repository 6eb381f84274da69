"""Pictures of masked batches: what the teacher sees, and what of it the student has to predict."""

from __future__ import annotations

import html
import math
import re
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from data_shards.batch import MaskedBatch
from data_shards.text.tokenizer import Tokenizer
from models.network import real_tokens
from models.vision import normalise
from pretrain.reporting.log_mel import log_mel

_PICTURE_SIDE = 112  # smaller images are enlarged to at least this many pixels
_GREY, _HATCH, _GAP = 128, 168, 4  # masked patches, their stripes; white pixels between images
_SHADE = (255.0, 140.0, 0.0)  # laid half over the masked frames of a spectrogram
_ZOOM = 2  # pixels of a spectrogram's frame and band
_LEGEND = "**⟦masked⟧**: the student predicts it; *⟨seen → true⟩*: replaced at random; the teacher sees the whole text"


def images_picture(batch: MaskedBatch, images: int = 8) -> Tensor:
    """Two rows of up to `images` images, uint8 [3, h, w]: above with their colours jittered, before normalisation, as
    the teacher sees them; below with the patches hatched that the student does not see."""
    batch = batch.map(lambda tensor: tensor[:images].cpu())
    assert batch.color is not None
    whole = enlarge(jitter_colors(batch.inputs, batch.color), _PICTURE_SIDE)
    hidden = _pixel_mask(batch.masks[:, 0], whole.shape[-1])
    masked = torch.where(hidden, _hatching(whole.shape[-1]), whole)
    return torch.cat([_row(whole), _row(masked)], dim=1)


def jitter_colors(inputs: Tensor, color: Tensor) -> Tensor:
    """uint8 images [B, 3, S, S] under the colour maps [B, 3, 4], by the function that the model applies."""
    pixels = normalise(inputs, color, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), dtype=torch.float32)
    return (pixels * 255).round().to(torch.uint8)


def enlarge(images: Tensor, side: int) -> Tensor:
    """Images [B, 3, S, S], each pixel repeated a whole number of times so that they are at least `side` wide."""
    factor = max(1, math.ceil(side / images.shape[-1]))
    return images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def _pixel_mask(mask: Tensor, side: int) -> Tensor:
    """bool [B, 1, side, side] of patch masks [B, T], patches in row-major order."""
    grid = math.isqrt(mask.shape[1])
    assert grid**2 == mask.shape[1], f"{mask.shape[1]} patches are not a square"
    patches = mask.reshape(-1, 1, grid, grid).float()
    return interpolate(patches, size=(side, side), mode="nearest").bool()


def _hatching(side: int) -> Tensor:
    """uint8 [1, side, side]: grey with diagonal stripes, which no image is likely to hold."""
    diagonal = torch.arange(side)[:, None] + torch.arange(side)[None, :]
    return torch.where(diagonal % 8 < 2, _HATCH, _GREY).to(torch.uint8)[None]


def _row(images: Tensor) -> Tensor:
    """Images [B, 3, s, s] side by side with a white frame around each: uint8 [3, h, w]."""
    framed = pad(images, (_GAP // 2,) * 4, value=255)
    return torch.cat(list(framed), dim=2)


def spectrograms_picture(batch: MaskedBatch, clips: int = 4) -> Tensor:
    """Log-mel spectrograms of up to `clips` clips below each other, uint8 [3, h, w]: low tones at the bottom, two
    pixels a frame, masked frames shaded, white behind a clip's end."""
    batch = batch.take(torch.arange(min(clips, len(batch)))).to("cpu")
    bands = log_mel(batch)
    ended = ~real_tokens(batch.lengths, bands.shape[1])
    low, high = bands[~ended].min(), bands[~ended].max()
    grey = ((bands - low) / (high - low + 1e-6) * 255)[..., None].expand(-1, -1, -1, 3)
    shaded = torch.where(batch.masks[:, 0, :, None, None], (grey + torch.tensor(_SHADE)) / 2, grey)
    pixels = torch.where(ended[..., None, None], 255.0, shaded).clamp(0, 255).to(torch.uint8)
    upright = pixels.permute(0, 3, 2, 1).flip(2)  # [B, 3, MELS, T]
    zoomed = upright.repeat_interleave(_ZOOM, 2).repeat_interleave(_ZOOM, 3)
    return torch.cat(list(pad(zoomed, (0, 0, 0, _GAP), value=255)), dim=1)


def texts_markdown(batch: MaskedBatch, tokenizer: Tokenizer, texts: int = 6) -> str:
    """Up to `texts` texts as a numbered list: masked tokens in bold brackets, replaced ones in italics."""
    batch = batch.take(torch.arange(min(texts, len(batch)))).to("cpu")
    assert batch.corrupted is not None
    rows = zip(batch.inputs, batch.corrupted[:, 0], batch.masks[:, 0], batch.lengths.tolist(), strict=True)
    marked = [
        _marked(whole[:n].tolist(), seen[:n].tolist(), mask[:n].tolist(), tokenizer) for whole, seen, mask, n in rows
    ]
    return "\n".join([_LEGEND, "", *(f"{number}. {text}" for number, text in enumerate(marked, 1))])


def _marked(whole: list[int], seen: list[int], mask: list[bool], tokenizer: Tokenizer) -> str:
    """One text as markdown."""
    kinds = [(hidden, true != other) for hidden, true, other in zip(mask, whole, seen, strict=True)]
    pieces, start = [], 0
    for kind, run in groupby(kinds):
        end = start + len(list(run))
        text = _plain(tokenizer.decode(whole[start:end]))
        match kind:
            case (True, _):
                pieces.append(f"**⟦{text}⟧**")
            case (False, True):
                pieces.append(f"*⟨{_plain(tokenizer.decode(seen[start:end]))} → {text}⟩*")
            case _:
                pieces.append(text)
        start = end
    return "".join(pieces)


def _plain(text: str) -> str:
    """Text that markdown shows as it is, in one line."""
    line = html.escape(re.sub(r"\s+", " ", text), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#+.!|~-])", r"\\\1", line)
