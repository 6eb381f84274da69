"""The contract between `data_shards` and `models`: what a sample and a masked micro-batch are."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One sample as stored: the undecoded members of its key, without the dot of their extension."""

    key: str
    members: dict[str, bytes]


@dataclass(frozen=True)
class MaskedBatch:
    """Samples of one forward pass on one rank, and the positions the student has to predict.

    B samples, T tokens (vision: patches in row-major order, CLS not counted), S pixels a side.
    """

    modality: str
    inputs: Tensor
    """Vision: uint8 [B, 3, S, S], cropped and flipped, colours not yet jittered or normalised."""
    color: Tensor
    """Vision: float32 [B, 3, 4], the colour jitter as an affine map of RGB in [0, 1]: `x -> clamp(A x + b)`."""
    mask: Tensor
    """bool [B, T], True where the student sees the mask vector and has a target."""
    sample_ids: Tensor
    """int64 [B], position of each sample in the index (the replacement's where a sample was bad)."""

    def __len__(self) -> int:
        return self.inputs.shape[0]

    def map(self, function) -> MaskedBatch:
        """Apply `function` to every tensor."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **{name: function(tensor) for name, tensor in tensors.items()})

    def to(self, device, non_blocking: bool = False) -> MaskedBatch:
        """Copy every tensor to `device`."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> MaskedBatch:
        """Copy every tensor to page-locked memory (called by torch's DataLoader)."""
        return self.map(lambda tensor: tensor.pin_memory())
