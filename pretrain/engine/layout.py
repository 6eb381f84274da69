"""Slices of partitions and the parameters that they hold; without DeepSpeed, for those who read checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

MASTER = "master"
"""Key of the weights beside those of the optimizer's state."""


@dataclass(frozen=True)
class Fragment:
    """`partition[offset : offset + numel]` of a rank is `parameter.flatten()[start : start + numel]`.

    parameter a        parameter b           flattened
    |............||...............................|
            |  start
            v
    |.......[======]|[========================].. |    partition of this rank
            ^ offset, numel elements
    """

    name: str
    """The parameter's."""
    partition: int
    """Number of the partition on this rank."""
    offset: int
    start: int
    numel: int


@dataclass(frozen=True)
class GroupState:
    """Optimizer states of a parameter group beside the masters; the same in every layout."""

    step: int | None
    """Updates so far; None before the first."""
    keys: tuple[str, ...] = ()
    """States of the masters' shape: Adam's moments, and the teacher if the group is averaged."""
