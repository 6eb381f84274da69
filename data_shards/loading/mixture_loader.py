"""The micro-batches of a mixture on one rank: each step is the next step of one modality's loader."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

from configs.checks.run import naming
from configs.schema import PretrainConfig
from configs.schema_modalities import Modality
from data_shards.batch import SampleBatch
from data_shards.loading.bad_sample_count import BadSampleCount
from data_shards.loading.labels import LabelMember
from data_shards.loading.modality_loader import ModalityLoader, StepStatistics
from data_shards.order.mixture import mixture_of
from data_shards.shards.index import Index


class MixtureLoader(StepStatistics):
    """The data of a mixture on one rank. Every step is the next step of one modality's loader."""

    def __init__(self, config: PretrainConfig, rank: int, world: int, labels: LabelMember | None = None) -> None:
        """Open a loader for each modality.

        Raises ValueError as `ModalityLoader` does, and if a modality has no shards. The message names the modality.
        """
        self._config, self._mixture = config, mixture_of(config)
        self.bad = BadSampleCount(config.data, logs=rank == 0)
        self._loaders: dict[Modality, ModalityLoader] = {}
        for modality in config.modalities:
            with naming(config, modality):
                self._loaders[modality] = ModalityLoader(config.for_modality(modality), rank, world, self.bad, labels)

    @property
    def indexes(self) -> dict[Modality, Index]:
        """The index of each modality's shards."""
        return {name: index for loader in self._loaders.values() for name, index in loader.indexes.items()}

    @property
    def parts(self) -> dict[Modality, ModalityLoader]:
        """The loader of each modality."""
        return self._loaders

    @property
    def samples(self) -> int:
        """Samples of all data sets."""
        return sum(loader.samples for loader in self._loaders.values())

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every modality has ended its first epoch."""
        last = {name: loader.steps_per_epoch - 1 for name, loader in self._loaders.items()}
        return 1 + max(self._mixture.step_of(name, own) for name, own in last.items())

    def epoch_of(self, step: int) -> int:
        """Return the epoch, of the step's modality, that a step belongs to."""
        modality, own = self._mixture.locate(step)
        return self._loaders[modality].epoch_of(own)

    def steps(self, first_step: int) -> Iterator[list[SampleBatch]]:
        """Return an endless iterator over this rank's micro-batches of step `first_step` and of each step after it.

        Workers start at once. Raises the same errors as `ModalityLoader.steps`.
        """
        first = self._mixture.steps_before(first_step)
        return self._steps(first_step, {name: loader.steps(first[name]) for name, loader in self._loaders.items()})

    def _steps(self, first_step: int, own: dict[Modality, Iterator[list[SampleBatch]]]) -> Iterator[list[SampleBatch]]:
        for step in count(first_step):
            modality, _ = self._mixture.locate(step)
            with naming(self._config, modality):
                batches = next(own[modality])
            own_loader = self._loaders[modality]
            self.data_wait, self.cost = own_loader.data_wait, own_loader.cost
            self.straggler_share, self.outcome = own_loader.straggler_share, own_loader.outcome
            yield batches

    def names_of(self, batch: SampleBatch) -> list[str]:
        """Return shard and key of a micro-batch's samples. Raises Unreachable if a store does not answer."""
        return self._loaders[batch.modality].names_of(batch)

    def state_dict(self, consumed_steps: int) -> dict[str, Any]:
        """Return the data position for a checkpoint: the mixture's, and each modality's own.

        It is JSON-able, the same on every rank, and the same for every number of ranks.
        """
        before = self._mixture.steps_before(consumed_steps)
        parts = {name: loader.state_dict(before[name]) for name, loader in self._loaders.items()}
        meaning = {"modalities": list(self._mixture.modalities), "weights": list(self._mixture.weights)}
        return {"consumed_steps": consumed_steps, **meaning, "parts": parts}

    def load_state_dict(self, state: dict[str, Any]) -> int:
        """Return the consumed steps of a checkpoint.

        Raises ValueError if the order would change. The message names the key that changes it, and the remedy.
        """
        if "modalities" not in state:
            raise ValueError("the checkpoint is of one modality; set modality to it, or use a new run.dir")
        began = list(zip(state["modalities"], state["weights"], strict=True))
        if began != list(self._mixture.shares()):
            names = ",".join(state["modalities"])
            keys = " ".join(f"mixture.{name}.weight={weight}" for name, weight in began)
            raise ValueError(f"the checkpoint has another mixture; set modality=[{names}] {keys}, or use a new run.dir")
        for name, loader in self._loaders.items():
            with naming(self._config, name):
                loader.load_state_dict(state["parts"][name])
        return int(state["consumed_steps"])

    def close(self) -> None:
        """End the workers, and the iterators over steps; log a summary of the bad samples, if there were any."""
        for loader in self._loaders.values():
            loader.close()
