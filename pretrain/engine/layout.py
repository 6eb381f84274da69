"""Which slice of which partition is which slice of which parameter; free of DeepSpeed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fragment:
    """`partition[offset : offset + numel]` of a rank is `parameter.flatten()[start : start + numel]`."""

    name: str
    partition: int
    offset: int
    start: int
    numel: int


MASTER = "master"
"""Key of the weights beside those of the optimizer's state."""


@dataclass(frozen=True)
class GroupState:
    """What the optimizer keeps of one of its parameter groups beside the masters; the same in every layout."""

    step: int | None
    """Updates so far; None before the first."""
    keys: tuple[str, ...] = ()
    """States of the masters' shape: Adam's moments, and the teacher where the group is averaged."""
