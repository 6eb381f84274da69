"""The contract between `data_shards` and `models`: what a sample and a masked micro-batch are."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs.schema_modalities import Modality
from configs.signals import (
    BOS,
    CONV_KERNELS,
    CONV_STRIDES,
    EOS,
    FRAME_STRIDE,
    PAD,
    RECEPTIVE_FIELD,
    UNK,
    frames,
    samples_of,
)
from data_shards.shards.tar import Sample

__all__ = [
    "BOS", "CONV_KERNELS", "CONV_STRIDES", "EOS", "FRAME_STRIDE", "PAD", "RECEPTIVE_FIELD", "UNK",
    "MaskedBatch", "Sample", "frames", "samples_of",
]  # fmt: skip


WITHIN_MESSAGE = 2**18
"""Bytes of a tensor up to which it goes to another process as it is, and not in shared memory."""


@dataclass(frozen=True)
class MaskedBatch:
    """Samples of one forward pass on one rank, and the positions the student has to predict.

    B samples, T tokens, the most of any sample (vision: patches in row-major order, CLS not counted; speech: frames of
    20 ms; text: subwords, <s> and </s> among them), S pixels a side or waveform samples.
    """

    modality: Modality
    inputs: Tensor
    """Vision: uint8 [B, 3, S, S], cropped and flipped, colours not yet jittered or normalised. Speech: int16 [B, S],
    cropped, not yet normalised, any value behind a clip's end. Text: int32 [B, T], whole, <pad> behind its end."""
    mask: Tensor
    """bool [B, T], True where the student has a target; never behind a sample's end."""
    lengths: Tensor
    """int64 [B], real tokens of each sample; vision: T of all."""
    sample_ids: Tensor
    """int64 [B], position of each sample in the index (the replacement's where a sample was bad)."""
    color: Tensor | None = None
    """Vision: float32 [B, 3, 4], the colour jitter as an affine map of RGB in [0, 1]: `x -> clamp(A x + b)`."""
    scale: Tensor | None = None
    """Speech: float32 [B, 2], mean of the int16 samples and 1 / their standard deviation (`speech.normalise`)."""
    corrupted: Tensor | None = None
    """Text: int32 [B, T], what the student sees: <mask> at `mask`, random tokens at some others."""
    most_masked: int | None = None
    """Masked tokens of the sample that has the most, or more. Shapes follow from this and from `padded`: known on the
    host, so that a GPU need not be waited for. None: counted here, where the batch is made."""
    padded: bool | None = None
    """Whether any sample has fewer than T real tokens. None: looked up here."""

    def __post_init__(self) -> None:
        if self.most_masked is None:
            object.__setattr__(self, "most_masked", int(self.mask.sum(1).max()))
        if self.padded is None:
            object.__setattr__(self, "padded", int(self.lengths.min()) < self.mask.shape[1])

    def __len__(self) -> int:
        return self.inputs.shape[0]

    def __getstate__(self) -> dict[str, Any]:
        """Small tensors go to another process as bytes: files of shared memory cost more than copying them."""
        return {
            name: value.numpy()
            if isinstance(value, Tensor) and value.device.type == "cpu" and value.nbytes <= WITHIN_MESSAGE
            else value
            for name, value in vars(self).items()
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, torch.from_numpy(value) if isinstance(value, np.ndarray) else value)

    def map(self, function) -> MaskedBatch:
        """Apply `function`, which may leave samples out, to every tensor."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **{name: function(tensor) for name, tensor in tensors.items()})

    def take(self, rows: Tensor) -> MaskedBatch:
        """The samples `rows` int64 [b], without the padding that none of them needs."""
        taken = self.map(lambda tensor: tensor.index_select(0, rows))
        longest = int(taken.lengths.max()) if self.padded else self.mask.shape[1]
        match self.modality:
            case "vision":
                return taken
            case "speech":
                inputs, corrupted = taken.inputs[:, : samples_of(longest)], None
            case "text":
                inputs = taken.inputs[:, :longest]
                corrupted = None if taken.corrupted is None else taken.corrupted[:, :longest]
        mask = taken.mask[:, :longest]
        return replace(taken, inputs=inputs, mask=mask, corrupted=corrupted, most_masked=None, padded=None)

    def to(self, device, non_blocking: bool = False) -> MaskedBatch:
        """Copy every tensor to `device`."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> MaskedBatch:
        """Copy every tensor to page-locked memory (called by torch's DataLoader)."""
        return self.map(lambda tensor: tensor.pin_memory())
