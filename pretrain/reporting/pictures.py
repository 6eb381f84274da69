"""Pictures of masked batches: the teacher's input, and the parts that the student has to predict."""

from __future__ import annotations

import html
import re
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.functional import pad

from data_shards.batch import MaskedBatch
from data_shards.showing.pictures import images, spectrograms
from data_shards.text.tokenizer import Tokenizer

_GAP = 4  # white pixels between images
_LEGEND = "**⟦masked⟧**: the student predicts it; *⟨seen → true⟩*: replaced at random; the teacher sees the whole text"


def images_picture(batch: MaskedBatch, most: int = 8) -> Tensor:
    """Picture uint8 [3, h, w] with two rows of up to `most` images, or of data2vec 2.0 three.

    The upper row shows the teacher's input before normalisation, with jittered colours. The second row hatches the
    patches that the student does not see, and the third one those of further masks of the first image.
    """
    few = batch.map(lambda tensor: tensor[:most].cpu())
    whole, masked = images(few)
    rows, others = [_row(whole), _row(masked)], range(1, min(few.masks.shape[1], 1 + len(few)))
    if others:
        first = few.map(lambda tensor: tensor[:1])
        more = torch.cat([images(first, number).masked for number in others])
        rows.append(_row(torch.cat([more, torch.full_like(whole, 255)])[: len(few)]))
    return torch.cat(rows, dim=1)


def _row(images: Tensor) -> Tensor:
    """Picture uint8 [3, h, w] of images [B, 3, s, s] side by side, each in a white frame."""
    framed = pad(images, (_GAP // 2,) * 4, value=255)
    return torch.cat(list(framed), dim=2)


def spectrograms_picture(batch: MaskedBatch, clips: int = 4) -> Tensor:
    """Picture uint8 [3, h, w] of the spectrograms of up to `clips` clips, below each other, masked frames shaded."""
    _, shaded = spectrograms(batch.take(torch.arange(min(clips, len(batch)))).to("cpu"))
    return torch.cat(list(pad(shaded, (0, 0, 0, _GAP), value=255)), dim=1)


def texts_markdown(batch: MaskedBatch, tokenizer: Tokenizer, texts: int = 6) -> str:
    """Markdown list of up to `texts` texts, with masked tokens in bold brackets and replaced ones in italics."""
    batch = batch.take(torch.arange(min(texts, len(batch)))).to("cpu")
    rows = zip(batch.inputs, batch.seen_ids, batch.masks[:, 0], batch.lengths.tolist(), strict=True)
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
