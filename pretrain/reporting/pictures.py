"""Pictures of masked batches: the teacher's input, and the parts that the student has to predict."""

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
_GREY, _HATCH, _GAP = 128, 168, 4  # grey of masked patches, grey of their stripes; white pixels between images
_SHADE = (255.0, 140.0, 0.0)  # laid half over the masked frames of a spectrogram
_ZOOM = 2  # pixels per frame and band of a spectrogram
_LEGEND = "**⟦masked⟧**: the student predicts it; *⟨seen → true⟩*: replaced at random; the teacher sees the whole text"


def images_picture(batch: MaskedBatch, images: int = 8) -> Tensor:
    """Picture uint8 [3, h, w] with two rows of up to `images` images.

    The upper row shows the teacher's input before normalisation, with jittered colours. The lower row hatches the
    patches that the student does not see.
    """
    batch = batch.map(lambda tensor: tensor[:images].cpu())
    assert batch.color is not None
    whole = enlarge(jitter_colors(batch.inputs, batch.color), _PICTURE_SIDE)
    hidden = _pixel_mask(batch.masks[:, 0], whole.shape[-1])
    masked = torch.where(hidden, _hatching(whole.shape[-1]), whole)
    return torch.cat([_row(whole), _row(masked)], dim=1)


def jitter_colors(inputs: Tensor, color: Tensor) -> Tensor:
    """Images uint8 [B, 3, S, S] under the colour maps [B, 3, 4], computed by the model's function."""
    pixels = normalise(inputs, color, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), dtype=torch.float32)
    return (pixels * 255).round().to(torch.uint8)


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


def _hatching(side: int) -> Tensor:
    """Hatching uint8 [1, side, side]: grey with diagonal stripes, which hardly any image contains."""
    diagonal = torch.arange(side)[:, None] + torch.arange(side)[None, :]
    return torch.where(diagonal % 8 < 2, _HATCH, _GREY).to(torch.uint8)[None]


def _row(images: Tensor) -> Tensor:
    """Picture uint8 [3, h, w] of images [B, 3, s, s] side by side, each in a white frame."""
    framed = pad(images, (_GAP // 2,) * 4, value=255)
    return torch.cat(list(framed), dim=2)


def spectrograms_picture(batch: MaskedBatch, clips: int = 4) -> Tensor:
    """Picture uint8 [3, h, w] of the log-mel spectrograms of up to `clips` clips, below each other.

    Low tones are at the bottom of each. A frame is two pixels wide. Masked frames are shaded. Beyond a clip's end the
    picture is white.
    """
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
    """Markdown list of up to `texts` texts, with masked tokens in bold brackets and replaced ones in italics."""
    batch = batch.take(torch.arange(min(texts, len(batch)))).to("cpu")
    assert batch.corrupted is not None
    rows = zip(batch.inputs, batch.corrupted[:, 0], batch.masks[:, 0], batch.lengths.tolist(), strict=True)
    marked = [
        _marked(whole[:n].tolist(), seen[:n].tolist(), mask[:n].tolist(), tokenizer) for whole, seen, mask, n in rows
    ]
    return "\n".join([_LEGEND, "", *(f"{number}. {text}" for number, text in enumerate(marked, 1))])


def _marked(whole: list[int], seen: list[int], mask: list[bool], tokenizer: Tokenizer) -> str:
    """Markdown of one text."""
    kinds = [(hidden, true != other) for hidden, true, other in zip(mask, whole, seen, strict=True)]
    pieces, start = [], 0
    for kind, run in groupby(kinds):
        end = start + len(list(run))
        text = _escaped(tokenizer.decode(whole[start:end]))
        match kind:
            case (True, _):
                pieces.append(f"**⟦{text}⟧**")
            case (False, True):
                pieces.append(f"*⟨{_escaped(tokenizer.decode(seen[start:end]))} → {text}⟩*")
            case _:
                pieces.append(text)
        start = end
    return "".join(pieces)


def _escaped(text: str) -> str:
    """Escape `text` so that markdown shows it unchanged, on one line."""
    line = html.escape(re.sub(r"\s+", " ", text), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#+.!|~-])", r"\\\1", line)
