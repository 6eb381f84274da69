"""The contract between `data_shards` and `models`: the micro-batches that a loader gives and an objective takes.

`SampleBatch` holds samples alone, `MaskedBatch` their masks too, `LabelledBatch` their labels or transcripts.

Shapes: B samples; T tokens, the largest number of any sample; M masks of each sample; S pixels a side, or waveform
samples. Tokens of vision: patches in row-major order, CLS not counted; of speech: frames of 20 ms; of text: subwords,
<s> and </s> included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, TypeVar

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

__all__ = [
    "BOS", "CONV_KERNELS", "CONV_STRIDES", "EOS", "FRAME_STRIDE", "PAD", "RECEPTIVE_FIELD", "UNK",
    "Counts", "LabelledBatch", "MaskedBatch", "SampleBatch", "TokenSpan", "frames", "samples_of",
]  # fmt: skip

WITHIN_MESSAGE = 2**18
"""Size in bytes of the largest tensor that never goes to another process by shared memory: it is sent as bytes."""

Batch = TypeVar("Batch", bound="SampleBatch")


class TokenSpan(NamedTuple):
    """Place of the tokens in `inputs`: T tokens cover the first `first + (T - 1) * step` elements of dimension 1."""

    first: int
    """Number of elements of the first token."""
    step: int
    """Number of elements from one token to the next."""


class Counts(NamedTuple):
    """Counts of a micro-batch, or their sums over a step."""

    targets: int
    """Positions or samples that have a target: the loss of a step is divided by their number."""
    tokens: int
    """Real tokens."""
    positions: int
    """Tokens that are computed, padding included: B * T."""
    samples: int


@dataclass(frozen=True, kw_only=True)
class SampleBatch:
    """Samples of one forward pass on one rank."""

    modality: Modality
    inputs: Tensor
    """Vision: uint8 [B, 3, S, S], cropped and flipped, colours not yet jittered or normalised. Speech: int16 [B, S],
    cropped, not yet normalised, any value behind a clip's end. Text: int32 [B, T], <pad> behind its end."""
    lengths: Tensor
    """int64 [B], real tokens of each sample; vision: T of all."""
    sample_ids: Tensor
    """int64 [B], id of each loaded sample in the index. A replacement has its own id."""
    color: Tensor | None = None
    """Vision: float32 [B, 3, 4], the colour jitter as an affine map of RGB in [0, 1]: `x -> clamp(A x + b)`."""
    scale: Tensor | None = None
    """Speech: float32 [B, 2], mean of the int16 samples and 1 / their standard deviation (`speech.normalise`)."""
    span: TokenSpan | None = None
    """Place of the tokens in `inputs`. None: all samples are of one size, and no padding can be cut off."""
    longest: int | None = None
    """T as a Python int, so that no shape waits for the GPU. None: taken from `lengths`, or from `masks` if there are
    any, when the batch is made."""
    padded: bool | None = None
    """True if any sample has fewer than T real tokens. None: looked up when the batch is made."""

    def __post_init__(self) -> None:
        if self.longest is None:
            object.__setattr__(self, "longest", self._longest())
        if self.padded is None:
            object.__setattr__(self, "padded", int(self.lengths.min()) < self.tokens)

    def _longest(self) -> int:
        return int(self.lengths.max())

    def __len__(self) -> int:
        return self.inputs.shape[0]

    @property
    def tokens(self) -> int:
        """T."""
        assert self.longest is not None
        return self.longest

    @property
    def counts(self) -> Counts:
        """Counts of this micro-batch. Every sample is a target."""
        return Counts(len(self), int(self.lengths.sum()), len(self) * self.tokens, len(self))

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields, as arrays all tensors but large ones in shared memory. Arrays are sent as bytes.

        A file of shared memory would cost more than copying a small tensor.
        """
        return {
            name: value.numpy()
            if isinstance(value, Tensor) and value.device.type == "cpu" and not _handed_over(value)
            else value
            for name, value in vars(self).items()
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, torch.from_numpy(value) if isinstance(value, np.ndarray) else value)

    def map(self: Batch, function: Callable[[Tensor], Tensor]) -> Batch:
        """Apply `function`, which keeps the number of samples, to every tensor."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        mapped: dict[str, Any] = {name: function(tensor) for name, tensor in tensors.items()}
        return replace(self, **mapped)

    def take(self: Batch, rows: Tensor) -> Batch:
        """Return the samples `rows` int64 [b], without the padding that none of them needs."""
        taken = self._select(rows)
        longest = int(taken.lengths.max()) if self.padded else self.tokens
        return replace(taken, **taken._cut(longest), longest=longest, padded=None)

    def _select(self: Batch, rows: Tensor) -> Batch:
        return self.map(lambda tensor: tensor.index_select(0, rows))

    def _cut(self, longest: int) -> dict[str, Any]:
        """Return the fields that change when this batch is cut to `longest` tokens."""
        if self.span is None:
            assert longest == self.tokens, "samples of one size have no padding to cut off"
            return {}
        return {"inputs": self.inputs[:, : self.span.first + (longest - 1) * self.span.step]}

    def with_labels(
        self, labels: Sequence[int] | None = None, transcripts: Sequence[str] | None = None
    ) -> LabelledBatch:
        """Return the same samples with the numbers of their classes, or with their transcripts."""
        numbers = None if labels is None else torch.tensor(labels, dtype=torch.int64)
        texts = None if transcripts is None else tuple(transcripts)
        return LabelledBatch(**vars(self), labels=numbers, transcripts=texts)

    def to(self: Batch, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Copy every tensor to `device`."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self: Batch) -> Batch:
        """Copy every tensor to page-locked memory (called by torch's DataLoader)."""
        return self.map(lambda tensor: tensor.pin_memory())


def _handed_over(tensor: Tensor) -> bool:
    """Return True if another process gets the tensor's memory itself."""
    return tensor.nbytes > WITHIN_MESSAGE and tensor.is_shared()


@dataclass(frozen=True, kw_only=True)
class MaskedBatch(SampleBatch):
    """Samples, and for each of their masks the positions that the student has to predict."""

    masks: Tensor
    """bool [B, M, T], True at the student's targets, never behind a sample's end. M = 1 in data2vec, more in 2.0."""
    corrupted: Tensor | None = None
    """Text of data2vec: int32 [B, M, T], the ids that the student sees: <mask> at `masks`, random tokens at some
    others. None in 2.0, whose student does not see the masked places."""
    noise_keys: Tensor | None = None
    """data2vec 2.0: int64 [B, M], the key of each mask's noise (see `models.layers.noise`)."""
    most_masked: int | None = None
    """Largest number of masked tokens in any mask, or an upper bound of it. None: counted when the batch is made."""
    most_visible: int | None = None
    """Largest number of real tokens that a mask leaves visible, or an upper bound. None: counted likewise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.most_masked is None or self.most_visible is None:
            counts = self.masks.sum(-1)
            object.__setattr__(self, "most_masked", int(counts.max()))
            object.__setattr__(self, "most_visible", int((self.lengths[:, None] - counts).max()))

    def _longest(self) -> int:
        return self.masks.shape[-1]

    @property
    def seen_ids(self) -> Tensor:
        """Text: int32 [B, T], what the student gets with the first mask: corrupted ids, or in 2.0 those of the text."""
        return self.inputs if self.corrupted is None else self.corrupted[:, 0]

    def with_one_mask(self) -> MaskedBatch:
        """Return the same samples with the first of their masks alone."""
        first = {name: getattr(self, name) for name in ("masks", "corrupted", "noise_keys")}
        return replace(self, **{name: value[:, :1] for name, value in first.items() if value is not None})

    @property
    def counts(self) -> Counts:
        """Counts of this micro-batch. The masked positions of all masks are its targets."""
        return super().counts._replace(targets=int(self.masks.sum()))

    def _cut(self, longest: int) -> dict[str, Any]:
        corrupted = None if self.corrupted is None else self.corrupted[..., :longest]
        counted_anew = {"most_masked": None, "most_visible": None}
        return {**super()._cut(longest), "masks": self.masks[..., :longest], "corrupted": corrupted, **counted_anew}


@dataclass(frozen=True, kw_only=True)
class LabelledBatch(SampleBatch):
    """Samples with the classes or the transcripts that lie beside them in the shards."""

    labels: Tensor | None = None
    """int64 [B], numbers of the classes (member `cls`)."""
    transcripts: tuple[str, ...] | None = None
    """B texts (member `txt`)."""

    def _select(self, rows: Tensor) -> LabelledBatch:
        taken = super()._select(rows)
        if self.transcripts is None:
            return taken
        return replace(taken, transcripts=tuple(self.transcripts[row] for row in rows.tolist()))
