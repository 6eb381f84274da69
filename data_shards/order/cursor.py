"""Where a run is in its data after so many steps, and how a step is split over ranks and micro-batches."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs.checks import Equal, batch_mistake, resolve_lanes
from configs.divisors import divisors
from configs.modality_config import ModalityConfig
from data_shards.order.blend import order_of
from data_shards.order.plain import RECIPE, Blend, OrderConfig
from data_shards.shards.index import Index


@dataclass(frozen=True)
class StepSplit:
    """How the samples of a step fall to lanes, ranks and micro-batches."""

    lanes: int
    per_lane: int
    """Samples of every lane in a step."""
    rank: int
    world: int

    @property
    def rank_lanes(self) -> range:
        """This rank's lanes, for images."""
        return range(self.rank * self.lanes // self.world, (self.rank + 1) * self.lanes // self.world)

    def lanes_of_node(self, own: bool) -> int:
        """Lanes whose samples the ranks of this node read: their own, or (batches by length) all."""
        return self.lanes * min(local_ranks(), self.world) // self.world if own else self.lanes


def local_ranks() -> int:
    """Ranks on this node."""
    return int(os.environ.get("LOCAL_SIZE", "1"))  # set by DeepSpeed's launcher


def split_step(config: ModalityConfig, rank: int, world: int) -> StepSplit:
    """The split for one rank. ValueError names the keys that do not fit and lists what would."""
    batch = config.batch
    micro = batch.micro if config.longest is None else None  # others cut micro-batches by length
    if mistake := batch_mistake(batch.global_, micro, config.data.lanes, world, batch.equal):
        raise ValueError(mistake)
    lanes = resolve_lanes(batch.global_, config.data.lanes, batch.equal)
    return StepSplit(lanes, batch.global_ // lanes, rank, world)


@dataclass(frozen=True)
class Cursor:
    """Positions of a run's steps. Nothing in it moves: where a run is follows from its number of consumed steps."""

    order: OrderConfig
    per_lane: int
    lane_length: int
    digest: str
    """Hash of the index."""
    equal: Equal | None = None
    """Batches by length: what steps have equal numbers of; None: batches as the order has them."""
    longest: int | None = None
    """Batches by length: tokens of the longest sample."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch; with `data.epoch=source`, until every item has begun anew (for reports alone)."""
        steps = self.lane_length // self.per_lane
        return max(1, steps) if self.order.endless else steps

    def locate(self, step: int) -> tuple[int, int]:
        """Step -> (epoch, position of its first sample in every lane); positions of an endless order never wrap."""
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        return epoch, (step if self.order.endless else step_of_epoch) * self.per_lane

    def window(self, number: int) -> tuple[int, int]:
        """The positions of a window, the last excluded, that are in whole steps."""
        first = number * self.order.window
        last = first + self.order.window
        return first, last if self.order.endless else min(last, self.steps_per_epoch * self.per_lane)

    def state_dict(self, consumed_steps: int) -> dict[str, Any]:
        """What a checkpoint keeps: the position, and all that gives it its meaning."""
        epoch, lane_pos = self.locate(consumed_steps)
        return {"consumed_steps": consumed_steps, "epoch": epoch, "lane_pos": lane_pos, **self._meaning()}

    def _meaning(self) -> dict[str, Any]:
        order = self.order
        constants = {"seed": order.seed, "lanes": order.lanes, "chunk": order.chunk, "window": order.window}
        bins = {"equal": self.equal, "longest": self.longest} if self.equal else {}
        size = order.lanes * self.per_lane
        return {**constants, "batch": size, "index": self.digest, "recipe": RECIPE, **bins, **self._blend()}

    def _blend(self) -> dict[str, Any]:
        if not (blend := self.order.blend):
            return {}
        return {"weights": list(blend.weights), "items": list(blend.items), "epochs": blend.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> int:
        """Consumed steps of a state; ValueError names the key under which the run would see other samples."""
        remedies = {
            "seed": "train.seed: set it to {}",
            "lanes": "data.lanes: set it to {}",
            "batch": "batch.global: set it to {}",
            "window": "data.window: set it to {}",
            "weights": "data.weights: set it to {}",
            "epochs": "data.epoch: set it to {}",
            "items": "data.shards: name {} shards in the items of the list",
            "index": "data.shards: give the shards that the run began with (their index was {})",
            "chunk": "data.chunk_bytes: set it as the run began (its chunks have {} samples)",
            "recipe": "this version orders samples otherwise: resume with the version of order recipe {}",
            "equal": "batch.equal: set it to {}",
            "longest": "speech.max_seconds or text.max_tokens: set it as the run began, {} frames or tokens",
        }
        meaning = self._meaning()
        for key, remedy in remedies.items():
            if state.get(key) != meaning.get(key):
                mended = remedy.format(_written(state.get(key)))
                raise ValueError(f"the checkpoint has another {key}; {mended}, or use a new run.dir")
        return int(state["consumed_steps"])


def _written(value: Any) -> str:
    """A value as it is given on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    return "null" if value is None else str(value)


def make_cursor(config: ModalityConfig, index: Index, split: StepSplit) -> Cursor:
    """The cursor of a run over `index`. ValueError where the data set is smaller than one batch."""
    chunk = index.chunk(config.data.chunk_bytes)
    by_length = config.longest is not None
    # A window that is sorted by length holds whole steps.
    window = -(-config.data.window // split.per_lane) * split.per_lane if by_length else config.data.window
    weights = config.data.weights
    blend = Blend(weights, index.items, config.data.epoch) if weights else None
    order = OrderConfig(config.seed, split.lanes, chunk, window, blend)
    bins = (config.batch.equal, config.longest) if by_length else (None, None)
    if blend:
        _check_items(index.counts, order, blend, split.lanes * split.per_lane)
    lane_length = order_of(index.counts, order).lane_length
    cursor = Cursor(order, split.per_lane, lane_length, index.digest, *bins)
    if not cursor.steps_per_epoch:
        samples, where = (lane_length * split.lanes, " in an epoch of data.weights") if blend else (index.samples, "")
        raise ValueError(
            f"data.shards has {samples} samples{where}, fewer than batch.global={config.batch.global_}; "
            f"lower batch.global, or add samples"
        )
    return cursor


def _check_items(counts: np.ndarray, order: OrderConfig, blend: Blend, batch: int) -> None:
    """ValueError where an item has no sample for each of its positions in a block of every lane."""
    parts = np.split(counts, np.cumsum(blend.items)[:-1])
    for number, (weight, part) in enumerate(zip(blend.weights, parts, strict=True), 1):
        samples, least = int(part.sum()), 1 if order.endless else weight
        if samples < order.lanes * least:
            legal = [lanes for lanes in divisors(batch) if lanes * least <= samples]
            remedy = f"set data.lanes={legal[-1]} or less, or add" if legal else "add"
            raise ValueError(
                f"data.shards: its item {number} has {samples} samples, fewer than {order.lanes * least}, which is "
                f"{least} for each of data.lanes={order.lanes}: {remedy} samples to it"
            )
