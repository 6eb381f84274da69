"""Where a run is in its data after so many steps, and how a step is split over ranks and micro-batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from configs.checks import batch_mistake, resolve_lanes
from configs.schema import PretrainConfig
from data_shards.index import Index
from data_shards.order import RECIPE, OrderConfig


@dataclass(frozen=True)
class StepSplit:
    """How the samples of a step fall to lanes, ranks and micro-batches."""

    lanes: int
    per_lane: int
    """Samples of every lane in a step."""
    rank_lanes: range
    """This rank's lanes."""
    micro: int
    """Samples of a micro-batch."""

    @property
    def micro_batches(self) -> int:
        """Micro-batches of this rank in a step."""
        return len(self.rank_lanes) * self.per_lane // self.micro


def split_step(batch: int, micro: int, lanes: int | None, rank: int, world: int) -> StepSplit:
    """The split for one rank. ValueError names the keys that do not fit and lists what would."""
    if mistake := batch_mistake(batch, micro, lanes, world):
        raise ValueError(mistake)
    chosen = resolve_lanes(batch, lanes)
    mine = range(rank * chosen // world, (rank + 1) * chosen // world)
    return StepSplit(chosen, batch // chosen, mine, micro)


@dataclass(frozen=True)
class Cursor:
    """Positions of a run's steps. Nothing in it moves: where a run is follows from its number of consumed steps."""

    order: OrderConfig
    per_lane: int
    lane_length: int
    digest: str
    """Hash of the index."""

    @property
    def steps_per_epoch(self) -> int:
        return self.lane_length // self.per_lane

    def locate(self, step: int) -> tuple[int, int]:
        """Step -> (epoch, position of its first sample in every lane)."""
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        return epoch, step_of_epoch * self.per_lane

    def state_dict(self, consumed_steps: int) -> dict[str, Any]:
        """What a checkpoint keeps: the position, and all that gives it its meaning."""
        epoch, lane_pos = self.locate(consumed_steps)
        return {"consumed_steps": consumed_steps, "epoch": epoch, "lane_pos": lane_pos, **self._meaning()}

    def _meaning(self) -> dict[str, Any]:
        order = self.order
        constants = {"seed": order.seed, "lanes": order.lanes, "chunk": order.chunk, "window": order.window}
        return {**constants, "batch": order.lanes * self.per_lane, "index": self.digest, "recipe": RECIPE}

    def load_state_dict(self, state: dict[str, Any]) -> int:
        """Consumed steps of a state; ValueError names the key under which the run would see other samples."""
        remedies = {
            "seed": "train.seed: set it to {}",
            "lanes": "data.lanes: set it to {}",
            "batch": "batch.global: set it to {}",
            "window": "data.window: set it to {}",
            "index": "data.shards: give the shards that the run began with (their index was {})",
            "chunk": "data.chunk_bytes: set it as the run began (its chunks have {} samples)",
            "recipe": "this version orders samples otherwise: resume with the version of order recipe {}",
        }
        meaning = self._meaning()
        for key, remedy in remedies.items():
            if state.get(key) != meaning[key]:
                mended = remedy.format(state.get(key))
                raise ValueError(f"the checkpoint has another {key}; {mended}, or use a new run.dir")
        return int(state["consumed_steps"])


def make_cursor(config: PretrainConfig, index: Index, split: StepSplit) -> Cursor:
    """The cursor of a run over `index`. ValueError where the data set is smaller than one batch."""
    chunk = max(1, math.ceil(config.data.chunk_bytes / index.mean_size))
    order = OrderConfig(config.train.seed, split.lanes, chunk, config.data.window)
    cursor = Cursor(order, split.per_lane, index.samples // split.lanes, index.digest)
    if not cursor.steps_per_epoch:
        raise ValueError(
            f"data.shards has {index.samples} samples, fewer than batch.global={config.batch.global_}; "
            f"lower batch.global, or add samples"
        )
    return cursor
