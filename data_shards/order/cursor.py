"""Position of a run in its data after a number of steps, and the split of a step over lanes and ranks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs.checks.divisors import divisors
from configs.checks.run import Equal, batch_mistake, resolve_lanes
from configs.modality_config import ModalityConfig
from data_shards.order.blend import order_of
from data_shards.order.plain import RECIPE, Blend, OrderConfig
from data_shards.shards.index import Index


@dataclass(frozen=True)
class StepSplit:
    """Distribution of a step's samples over lanes and ranks."""

    lanes: int
    per_lane: int
    """Samples per lane in a step."""
    rank: int
    world: int

    @property
    def rank_lanes(self) -> range:
        """Lanes of this rank, in plain order (images)."""
        return range(self.rank * self.lanes // self.world, (self.rank + 1) * self.lanes // self.world)

    def node_lanes(self, own: bool) -> int:
        """Number of lanes that this node's ranks read: their own, or all if not `own` (batches by length)."""
        return self.lanes * min(local_ranks(), self.world) // self.world if own else self.lanes


def local_ranks() -> int:
    """Number of ranks on this node."""
    return int(os.environ.get("LOCAL_SIZE", "1"))  # set by DeepSpeed's launcher


def split_step(config: ModalityConfig, rank: int, world: int) -> StepSplit:
    """The split for one rank. Raises ValueError that names the keys that do not fit, and lists values that do."""
    batch = config.batch
    micro = batch.micro if config.longest is None else None  # speech and text cut micro-batches by length
    if mistake := batch_mistake(batch.global_, micro, config.data.lanes, world, batch.equal):
        raise ValueError(mistake)
    lanes = resolve_lanes(batch.global_, config.data.lanes, batch.equal)
    return StepSplit(lanes, batch.global_ // lanes, rank, world)


@dataclass(frozen=True)
class Cursor:
    """Positions of a run's steps. It has no state: a position follows from the number of consumed steps."""

    order: OrderConfig
    per_lane: int
    lane_length: int
    digest: str
    """Hash of the index."""
    equal: Equal | None = None
    """Batches by length: quantity that is equal in all steps, samples or tokens. None: batches in plain order."""
    longest: int | None = None
    """Batches by length: limit of a sample's length, in tokens."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps per epoch. `data.epoch=source`: steps until every item has begun anew, used for reports only."""
        steps = self.lane_length // self.per_lane
        return max(1, steps) if self.order.endless else steps

    def locate(self, step: int) -> tuple[int, int]:
        """(epoch, position in every lane) of a step's first sample. Positions of an endless order never wrap."""
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        return epoch, (step if self.order.endless else step_of_epoch) * self.per_lane

    def window(self, number: int) -> tuple[int, int]:
        """(first, last excluded) of the positions of a window that belong to whole steps."""
        first = number * self.order.window
        last = first + self.order.window
        return first, last if self.order.endless else min(last, self.steps_per_epoch * self.per_lane)

    def state_dict(self, consumed_steps: int) -> dict[str, Any]:
        """State for a checkpoint: the position, and all constants that the order depends on."""
        epoch, lane_pos = self.locate(consumed_steps)
        return {"consumed_steps": consumed_steps, "epoch": epoch, "lane_pos": lane_pos, **self._order_constants()}

    def _order_constants(self) -> dict[str, Any]:
        """Constants under which a position means the same samples."""
        order = self.order
        constants = {"seed": order.seed, "lanes": order.lanes, "chunk": order.chunk, "window": order.window}
        bins = {"equal": self.equal, "longest": self.longest} if self.equal else {}
        size = order.lanes * self.per_lane
        return {**constants, "batch": size, "index": self.digest, "recipe": RECIPE, **bins, **self._blend_constants()}

    def _blend_constants(self) -> dict[str, Any]:
        if not (blend := self.order.blend):
            return {}
        return {"weights": list(blend.weights), "items": list(blend.items), "epochs": blend.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> int:
        """Consumed steps of a state. Raises ValueError if the run would see other samples, and names the key."""
        remedies = {
            "seed": "train.seed: set it to {}",
            "lanes": "data.lanes: set it to {}",
            "batch": "batch.global: set it to {}",
            "window": "data.window: set it to {}",
            "weights": "data.weights: set it to {}",
            "epochs": "data.epoch: set it to {}",
            "items": "data.shards: name {} shards in the items of the list",
            "index": "data.shards: give the shards that the run began with, none more (their index was {})",
            "chunk": "data.chunk_bytes: set it as the run began (its chunks have {} samples)",
            "recipe": "this version orders samples otherwise: resume with the version of order recipe {}",
            "equal": "batch.equal: set it to {}",
            "longest": "speech.max_seconds or text.max_tokens: set it as the run began, {} frames or tokens",
        }
        meaning = self._order_constants()
        for key, remedy in remedies.items():
            if state.get(key) != meaning.get(key):
                mended = remedy.format(_command_line_value(state.get(key)))
                anew = "or go on from this run's weights in a new run.dir, with init= and this run's directory"
                raise ValueError(f"the checkpoint has another {key}; {mended}, {anew}")
        return int(state["consumed_steps"])


def _command_line_value(value: Any) -> str:
    """Text of a value, as on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    return "null" if value is None else str(value)


def make_cursor(config: ModalityConfig, index: Index, split: StepSplit) -> Cursor:
    """The cursor of a run over `index`. Raises ValueError if the data set is smaller than one batch."""
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
    """Raise ValueError if an item cannot fill its positions in one block of every lane (endless: one per lane)."""
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
