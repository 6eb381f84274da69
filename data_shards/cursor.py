"""Where a run is in its data after so many steps, and how a step is split over ranks and micro-batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from configs.checks import Equal, batch_mistake, resolve_lanes
from configs.schema import PretrainConfig
from data_shards.index import Index
from data_shards.order import RECIPE, OrderConfig


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


def split_step(part: PretrainConfig, rank: int, world: int) -> StepSplit:
    """The split for one rank. ValueError names the keys that do not fit and lists what would."""
    batch = part.batch
    micro = batch.micro if part.modality == "vision" else None  # others cut micro-batches by length
    if mistake := batch_mistake(batch.global_, micro, part.data.lanes, world, batch.equal):
        raise ValueError(mistake)
    lanes = resolve_lanes(batch.global_, part.data.lanes, batch.equal)
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
        bins = {"equal": self.equal, "longest": self.longest} if self.equal else {}
        return {**constants, "batch": order.lanes * self.per_lane, "index": self.digest, "recipe": RECIPE, **bins}

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
            "equal": "batch.equal: set it to {}",
            "longest": "speech.max_seconds or text.max_tokens: set it as the run began, {} frames or tokens",
        }
        meaning = self._meaning()
        for key, remedy in remedies.items():
            if state.get(key) != meaning.get(key):
                mended = remedy.format(state.get(key))
                raise ValueError(f"the checkpoint has another {key}; {mended}, or use a new run.dir")
        return int(state["consumed_steps"])


def longest_sample(part: PretrainConfig) -> int:
    """Tokens of the longest sample: frames of speech, subwords of text; longer ones are cropped."""
    match part.modality:
        case "speech":
            return part.speech.max_frames
        case "text":
            return part.text.max_tokens
    raise AssertionError(f"{part.modality} has no lengths")


def make_cursor(part: PretrainConfig, index: Index, split: StepSplit) -> Cursor:
    """The cursor of a run over `index`. ValueError where the data set is smaller than one batch."""
    chunk = index.chunk(part.data.chunk_bytes)
    by_length = part.modality != "vision"
    # A window that is sorted by length holds whole steps.
    window = -(-part.data.window // split.per_lane) * split.per_lane if by_length else part.data.window
    order = OrderConfig(part.train.seed, split.lanes, chunk, window)
    bins = (part.batch.equal, longest_sample(part)) if by_length else (None, None)
    cursor = Cursor(order, split.per_lane, index.samples // split.lanes, index.digest, *bins)
    if not cursor.steps_per_epoch:
        raise ValueError(
            f"data.shards has {index.samples} samples, fewer than batch.global={part.batch.global_}; "
            f"lower batch.global, or add samples"
        )
    return cursor
