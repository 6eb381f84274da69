"""The requests of a rank in each step: a pure function of (index, seed, step) and of the step's split over ranks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Protocol

import numpy as np
from torch.utils.data import Sampler

from configs.modality_config import ModalityConfig
from data_shards.kinds import kind_of
from data_shards.order.blend import order_of
from data_shards.order.cursor import Cursor, StepSplit
from data_shards.order.length_bins import Bins, Lengths, Step, micro_batch_slices, straggler_share
from data_shards.order.plain import Order
from data_shards.request import TRIM_GROUP, Neighbours, Request
from data_shards.shards.index import Index

_REMEMBERED = 1000  # steps whose straggler share is kept


class Steps(Protocol):
    """The steps of a run on one rank."""

    def requests(self, step: int) -> list[Request]:
        """Return the rank's micro-batches of a step."""

    def straggler_share(self, step: int) -> float:
        """Return the estimated share of a step lost to the slowest rank, a pure function of the step."""


class Requests(Sampler[Request]):
    """The requests of one rank from a step on, without end."""

    def __init__(self, steps: Steps, first_step: int) -> None:
        self.steps, self.first_step = steps, first_step

    def __iter__(self) -> Iterator[Request]:
        for step in count(self.first_step):
            yield from self.steps.requests(step)


class LaneSteps:
    """Steps of images: samples in the order's sequence, lane after lane, cut into micro-batches of `micro`."""

    def __init__(self, order: Order, cursor: Cursor, split: StepSplit, micro: int) -> None:
        self.order, self.cursor, self.split, self.micro = order, cursor, split, micro

    def requests(self, step: int) -> list[Request]:
        """Return the rank's micro-batches of a step, of one size."""
        epoch, position = self.cursor.locate(step)
        lanes, per_lane = np.array(self.split.rank_lanes), self.split.per_lane
        samples, epochs = (array.ravel() for array in self.order.draw(epoch, lanes, position, position + per_lane))
        positions = np.tile(np.arange(position, position + per_lane), len(lanes))
        lanes = lanes.repeat(per_lane)
        parts = [slice(first, first + self.micro) for first in range(0, len(samples), self.micro)]
        limits = np.zeros_like(samples)
        return [
            Request(epochs[p], lanes[p], positions[p], samples[p], p.stop == len(samples), limits[p]) for p in parts
        ]

    def straggler_share(self, step: int) -> float:
        """Return 0: images are of one size."""
        return 0.0


class BinSteps:
    """Steps of speech and text: samples of about one length, cut into micro-batches by length."""

    def __init__(self, bins: Bins, split: StepSplit, config: ModalityConfig) -> None:
        self.bins, self.split, self.batch = bins, split, config.batch
        self.fewest = kind_of(config.modality).fewest_tokens
        self.crop_to_shortest, self.equal_masks = config.own.crop_to_shortest, config.own.equal_masks
        self._straggler_share: dict[int, float] = {}

    def requests(self, step: int) -> list[Request]:
        """Return the rank's micro-batches of a step; every rank has the same number."""
        whole = self.bins.step(step)
        limits = self._limits(whole.lengths)
        counted = np.minimum(whole.lengths, limits)  # 0 for samples that could not be read
        whole = whole._replace(lengths=limits)
        mine = Step(*(array[self.split.rank :: self.split.world] for array in whole))
        parts = micro_batch_slices(limits, self.split.world, self.batch.micro, self.batch.micro_tokens)
        self._remember(step, straggler_share(limits, parts, self.split.world))
        return [
            Request(
                mine.epochs[p],
                mine.lanes[p],
                mine.positions[p],
                mine.samples[p],
                p is parts[-1],
                mine.lengths[p],
                self._neighbours(whole._replace(lengths=counted), p) if self.equal_masks else None,
            )
            for p in parts
        ]

    def straggler_share(self, step: int) -> float:
        """Return the share, the same on every rank.

        The shares of the last steps are kept, because requests are made ahead of training.
        """
        if step not in self._straggler_share:
            self.requests(step)
        return self._straggler_share[step]

    def _remember(self, step: int, share: float) -> None:
        self._straggler_share[step] = share
        if len(self._straggler_share) > _REMEMBERED:
            del self._straggler_share[next(iter(self._straggler_share))]

    def _neighbours(self, step: Step, units: slice) -> Neighbours:
        """Return the groups of a step's samples that hold this rank's samples `units`."""
        group = np.arange(len(step.samples))[self.split.rank :: self.split.world][units] // TRIM_GROUP
        whole = slice(group[0] * TRIM_GROUP, (group[-1] + 1) * TRIM_GROUP)
        return Neighbours(step.samples[whole], step.epochs[whole], step.lengths[whole], group - group[0])

    def _limits(self, lengths: np.ndarray) -> np.ndarray:
        """Return the maximum length in tokens of each sample and of its replacement; `lengths` [n], longest first.

        `crop_to_shortest`: the shortest length in the step; else the sample's own length. So a replacement, however
        long, takes no more than the bad sample's place.
        """
        usable = lengths[lengths >= self.fewest]  # the index has 0 for samples that could not be read
        if self.crop_to_shortest and len(usable):
            return np.full_like(lengths, usable[-1])
        return np.maximum(lengths, self.fewest)


def steps_of(config: ModalityConfig, index: Index, cursor: Cursor, split: StepSplit) -> Steps:
    """Return the steps of one modality on one rank."""
    order = order_of(index.counts, cursor.order)
    if config.longest is None:
        return LaneSteps(order, cursor, split, config.batch.micro)
    return BinSteps(Bins(order, Lengths(index), cursor), split, config)
