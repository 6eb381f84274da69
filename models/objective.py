"""Objectives: modules whose loss the engine minimises.

data2vec is one. Others can follow, with or without a teacher; `tests/integration/labelled_worker.py` has a classifier.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from data_shards.batch import SampleBatch


class ObjectiveOutput(NamedTuple):
    """The share of one micro-batch in a step."""

    loss: Tensor
    """float32 scalar: this micro-batch's share of the step's loss."""
    statistics: dict[str, Tensor]
    """float64 tensors by name, additive over micro-batches and ranks."""
    errors: Tensor | None = None
    """float32 [B, M, T]: loss of each target by itself, 0 where there is none. None: no token has targets."""


class Tracked(NamedTuple):
    """A parameter that the teacher averages."""

    name: str
    """Its name in `Objective.trained`."""
    student: nn.Parameter
    teacher: nn.Parameter
    """The frozen copy that the forward pass uses, in the model's precision."""


class Objective(nn.Module, ABC):
    """A module that turns a micro-batch into a loss. It does not update its parameters: the engine does."""

    @abstractmethod
    def forward(self, batch: SampleBatch, count: Tensor, shared_seed: int = 0) -> ObjectiveOutput:
        """Compute the loss of a micro-batch and its statistics.

        count: scalar, number of targets in the step, over all ranks (the sum of `batch.counts.targets`). The losses of
        the step's micro-batches sum to the mean over every target. shared_seed: the seed of layer drop, the same on
        every rank.
        """

    @abstractmethod
    def trained(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Name every parameter that the optimizer updates, as checkpoints name it."""

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the trained parameters as optimizer groups with keys params, weight_decay, teacher and modality.

        teacher: True if the teacher averages them. modality: the only modality whose steps may move them, None if every
        step may.
        """

    @abstractmethod
    def flops(self, batch: SampleBatch) -> float:
        """Return the floating-point operations of a micro-batch's training step."""

    def tracked(self) -> list[Tracked]:
        """Return all that a teacher averages; nothing for an objective without a teacher."""
        return []
