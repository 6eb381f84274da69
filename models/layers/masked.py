"""Sets of tokens: the real ones of a sample, and those that a mask hides or leaves visible.

Shapes: B samples of T tokens, M masks of each, N = B M masks in all.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from data_shards.batch import MaskedBatch
from models.layers.blocks import select_tokens


class Masked(NamedTuple):
    """The hidden and the visible tokens of each mask. Masks of one sample follow each other."""

    mask: Tensor
    """bool [N, T], True at hidden tokens."""
    seen: Tensor
    """bool [N, T], True at visible tokens; padding is neither."""
    hidden: Tensor
    """int64 [N, R], places of the hidden tokens, padded to a common number."""
    weight: Tensor
    """float32 [N, R], 1 for `hidden`, 0 for its padding."""
    visible: Tensor
    """int64 [N, V], places of the visible tokens, padded to a common number."""
    lengths: Tensor | None
    """int64 [N], visible tokens of each mask; None: all have V."""
    padding: Tensor | None
    """bool [N, T, 1], True behind a sample's end; None: no sample is padded."""


def masked_of(batch: MaskedBatch) -> Masked:
    """Return the hidden and the visible tokens of a batch's masks."""
    mask, count = batch.masks.flatten(0, 1), batch.masks.shape[1]
    assert batch.most_masked is not None and batch.most_visible is not None
    real = real_tokens(batch.lengths, batch.tokens).repeat_interleave(count, 0)
    seen = real & ~mask
    hidden, weight = masked_rows(mask, batch.most_masked)
    visible, _ = masked_rows(seen, batch.most_visible)
    if not batch.padded:  # so all masks of a micro-batch hide one number of tokens
        return Masked(mask, seen, hidden, weight, visible, None, None)
    return Masked(mask, seen, hidden, weight, visible, seen.sum(1), ~real[..., None])


def masked_rows(mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return rows int64 [B, R], the positions of the tokens masked in bool [B, T], and their weight float32 [B, R].

    R = min(count, T). With `most_masked` of a modality as `count`, shapes do not depend on the mask. Padding rows have
    weight 0, masked tokens 1.
    """
    assert mask.device.type != "cpu" or int(mask.sum(1).max()) <= count, "more tokens masked than most_masked"
    order = mask.byte().argsort(dim=1, descending=True, stable=True)[:, :count]
    return order, mask.gather(1, order).float()


def real_tokens(lengths: Tensor, tokens: int) -> Tensor:
    """lengths int64 [B] -> bool [B, T], False behind a sample's end."""
    return torch.arange(tokens, device=lengths.device) < lengths[:, None]


def without(x: Tensor, padding: Tensor | None) -> Tensor:
    """Return x [B, T, H] with zeros at padding, bool [B, T, 1]; None: there is no padding."""
    return x if padding is None else x.masked_fill(padding, 0)


def of_each_mask(x: Tensor, rows: Tensor) -> Tensor:
    """x [B, T, H], rows int64 [N, R] of N = B M masks -> [N, R, H], the tokens of each mask."""
    return select_tokens(x, rows.reshape(len(x), -1)).reshape(*rows.shape, x.shape[-1])
