"""Series: the member `i8` holds 64 signed bytes; a token is four of them. It becomes data_shards/series/samples.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from configs.modality_config import ModalityConfig
from data_shards.batch import MaskedBatch, SampleBatch
from data_shards.randomness import Epochs, Stream, uniforms
from data_shards.request import Neighbours
from data_shards.shards.bad_sample import BadSample, find_member
from data_shards.shards.tar import Members
from data_shards.spans import choose_positions


class SeriesSamples:
    """Series of a run: members of a sample -> int8 [64] -> masked batch."""

    draws = 1

    def __init__(self, config: ModalityConfig) -> None:
        self.series, self.seed = config.series, config.seed

    def load(self, members: Members, draws: np.ndarray, limit: int) -> np.ndarray:
        return self.load_whole(members)

    def load_whole(self, members: Members) -> np.ndarray:
        values = np.frombuffer(find_member(members, ("i8",), "series"), np.int8)
        if len(values) != 4 * self.series.tokens:
            raise BadSample("decode", f"{len(values)} values")
        return values

    def masked(
        self, epochs: Epochs, samples: np.ndarray, loaded: list[np.ndarray], _: Neighbours | None
    ) -> MaskedBatch:
        draws = uniforms(self.seed, epochs, samples, Stream.MASK, self.series.tokens)
        chosen = choose_positions(draws, np.full(len(samples), self.series.masked), np.ones(draws.shape, bool))
        return MaskedBatch(**self._fields(samples, loaded), masks=torch.from_numpy(chosen[:, None]))

    def unmasked(self, samples: np.ndarray, loaded: list[np.ndarray], epochs: Epochs | None = None) -> SampleBatch:
        return SampleBatch(**self._fields(samples, loaded))

    def _fields(self, samples: np.ndarray, loaded: list[np.ndarray]) -> dict[str, Any]:
        return {
            "modality": "series",
            "inputs": torch.from_numpy(np.stack(loaded)),
            "lengths": torch.full((len(samples),), self.series.tokens),
            "sample_ids": torch.from_numpy(samples),
        }
