"""The modality of each step: a pure function of (seed, step), the same on all ranks.

Steps come in blocks. A block has as many steps as the sum of the weights. In every block each modality has as many
steps as its weight, in an order permuted by the block's number. So a step's modality, and its number among the steps
of that modality, are found without counting from the start.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from configs.schema import PretrainConfig
from configs.schema_modalities import Modality

_KEY = 2**63 - 1  # second word of the key, in which orders have the epoch


@dataclass(frozen=True)
class Mixture:
    """A mixture of modalities. `weights` are whole numbers in the order of `modalities`."""

    modalities: tuple[Modality, ...]
    weights: tuple[int, ...]
    seed: int

    def locate(self, step: int) -> tuple[Modality, int]:
        """(modality of a step, its number among the steps of that modality), both numbers from 0."""
        block, place = divmod(step, sum(self.weights))
        order = _block_order(self.weights, self.seed, block)
        which = order[place]
        return self.modalities[which], block * self.weights[which] + order[:place].count(which)

    def steps_before(self, step: int) -> dict[Modality, int]:
        """Number of steps per modality among the first `step` steps."""
        block, place = divmod(step, sum(self.weights))
        part = _block_order(self.weights, self.seed, block)[:place]
        return {name: block * self.weights[i] + part.count(i) for i, name in enumerate(self.modalities)}

    def step_of(self, modality: Modality, number: int) -> int:
        """Step of a modality's `number`-th step, both from 0. The inverse of `locate`."""
        which = self.modalities.index(modality)
        block, place = divmod(number, self.weights[which])
        steps = [i for i, other in enumerate(_block_order(self.weights, self.seed, block)) if other == which]
        return block * sum(self.weights) + steps[place]

    def is_last_in_interval(self, step: int, every: int, end: int) -> bool:
        """True if `step` is the last step of its modality in the current interval of `every` steps.

        A row of metrics is written at these steps. So every modality that had a step in an interval gets one row. With
        one modality, these are every `every`-th step and the last. Steps count from 1, as in the metrics. The run ends
        with step `end`.
        """
        modality, number = self.locate(step - 1)
        interval_end = min(-(-step // every) * every, end)
        return self.step_of(modality, number + 1) + 1 > interval_end

    def shares(self) -> Iterator[tuple[Modality, int]]:
        """Yield each modality with its weight."""
        return zip(self.modalities, self.weights, strict=True)


@lru_cache(maxsize=8)
def _block_order(weights: tuple[int, ...], seed: int, block: int) -> list[int]:
    """Index of the modality of each step of a block. Raw Philox output and a stable sort, as in the orders."""
    words = np.random.Philox(key=[seed, _KEY], counter=[0, 0, 0, block]).random_raw(sum(weights))
    quota = np.repeat(np.arange(len(weights)), weights)
    return quota[np.argsort(words, kind="stable")].tolist()


def mixture_of(config: PretrainConfig) -> Mixture:
    """The mixture of a run, also of one modality. Raises ValueError if one of several modalities has no shards."""
    shares = {modality: getattr(config.mixture, modality) for modality in config.modalities}
    if config.is_mixture and (missing := [name for name, share in shares.items() if not share.shards]):
        keys, names = " ".join(f"mixture.{name}.shards=PATTERN" for name in missing), ",".join(config.modalities)
        raise ValueError(f"modality=[{names}] names {missing[0]}, which has no shards: set {keys}")
    weights = tuple(share.weight for share in shares.values()) if config.is_mixture else (1,)
    return Mixture(config.modalities, weights, config.train.seed)
