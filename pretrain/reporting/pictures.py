"""Pictures of masked batches: the teacher's input, and the parts that the student has to predict."""

from __future__ import annotations

import html
import re
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.functional import pad

from data_shards.batch import MaskedBatch
from data_shards.showing.pictures import heat, heat_strips, images, spectrograms
from data_shards.text.tokenizer import Tokenizer

_GAP = 4  # white pixels between images
_LEGEND = "**⟦masked⟧**: the student predicts it; *⟨seen → true⟩*: replaced at random; the teacher sees the whole text"


def images_picture(batch: MaskedBatch, errors: Tensor | None = None, most: int = 8) -> Tensor:
    """Picture uint8 [3, h, w] with rows of up to `most` images.

    The upper row shows the teacher's input before normalisation, with jittered colours. The second row hatches the
    patches that the student does not see. With `errors` [B, M, T], the loss of each patch, the third row shows it on
    one scale: black is good, white the worst. Of data2vec 2.0 the last rows show further masks of the first image, and
    their errors.
    """
    few = batch.map(lambda tensor: tensor[:most].cpu())
    whole, masked = images(few)
    rows, others = [_row(whole), _row(masked)], range(1, min(few.masks.shape[1], 1 + len(few)))
    losses = None if errors is None else errors[:most].cpu()
    if losses is not None:
        rows.append(_row(heat(whole, losses[:, 0])))
    if others:
        first = few.map(lambda tensor: tensor[:1])
        more = torch.cat([images(first, number).masked for number in others])
        rows.append(_filled(more, whole))
        if losses is not None:
            rows.append(_filled(heat(whole[:1].expand(len(more), -1, -1, -1), losses[0, others]), whole))
    return torch.cat(rows, dim=1)


def _filled(images: Tensor, like: Tensor) -> Tensor:
    """A row of images with white ones behind, up to the number of others."""
    return _row(torch.cat([images, torch.full_like(like, 255)])[: len(like)])


def _row(images: Tensor) -> Tensor:
    """Picture uint8 [3, h, w] of images [B, 3, s, s] side by side, each in a white frame."""
    framed = pad(images, (_GAP // 2,) * 4, value=255)
    return torch.cat(list(framed), dim=2)


def spectrograms_picture(batch: MaskedBatch, errors: Tensor | None = None, clips: int = 4) -> Tensor:
    """Picture uint8 [3, h, w] of the spectrograms of up to `clips` clips, below each other, masked frames shaded.

    errors: [B, M, T], the loss of each frame. A strip below each clip shows it: black is good, white the worst.
    """
    few = batch.take(torch.arange(min(clips, len(batch)))).to("cpu")
    _, shaded = spectrograms(few)
    if errors is not None:
        shaded = torch.cat([shaded, heat_strips(errors[: len(few), 0, : few.tokens].cpu())], dim=2)
    return torch.cat(list(pad(shaded, (0, 0, 0, _GAP), value=255)), dim=1)


def texts_markdown(batch: MaskedBatch, tokenizer: Tokenizer, errors: Tensor | None = None, texts: int = 6) -> str:
    """Markdown list of up to `texts` texts, with masked tokens in bold brackets and replaced ones in italics.

    errors: [B, M, T], the loss of each token. Behind masked tokens stands theirs, by the mean of these texts.
    """
    batch = batch.take(torch.arange(min(texts, len(batch)))).to("cpu")
    masks = batch.masks[:, 0]
    losses = None if errors is None else errors[: len(batch), 0, : batch.tokens].cpu()
    by_mean = None if losses is None else losses / losses[masks].mean().clamp(min=1e-12)
    marked = []
    for row, n in enumerate(batch.lengths.tolist()):
        whole, seen, mask = (ids[row, :n].tolist() for ids in (batch.inputs, batch.seen_ids, masks))
        marked.append(_marked(whole, seen, mask, tokenizer, None if by_mean is None else by_mean[row, :n].tolist()))
    legend = _LEGEND if errors is None else f"{_LEGEND}; behind it the loss by the mean"
    return "\n".join([legend, "", *(f"{number}. {text}" for number, text in enumerate(marked, 1))])


def _marked(
    whole: list[int], seen: list[int], mask: list[bool], tokenizer: Tokenizer, losses: list[float] | None = None
) -> str:
    """Markdown of one text."""
    kinds = [(hidden, true != other) for hidden, true, other in zip(mask, whole, seen, strict=True)]
    pieces, start = [], 0
    for kind, run in groupby(kinds):
        end = start + len(list(run))
        text = _escaped(tokenizer.decode(whole[start:end]))
        match kind:
            case (True, _):
                loss = "" if losses is None else f" ({sum(losses[start:end]) / (end - start):.2f})"
                pieces.append(f"**⟦{text}⟧**{loss}")
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
