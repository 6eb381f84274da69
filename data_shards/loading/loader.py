"""The data of a run on one rank, of one modality or of a mixture."""

from __future__ import annotations

from configs.schema import PretrainConfig
from data_shards.loading.labels import LabelMember
from data_shards.loading.mixture_loader import MixtureLoader
from data_shards.loading.modality_loader import ModalityLoader

Loader = ModalityLoader | MixtureLoader


def open_loader(config: PretrainConfig, rank: int, world: int, labels: LabelMember | None = None) -> Loader:
    """Open the data of a run on one rank.

    labels: give batches with classes (`cls`) or transcripts (`txt`) instead of masks. A sample that has none is then a
    bad sample. Raises ValueError as `MixtureLoader` and `ModalityLoader` do.
    """
    if config.is_mixture:
        return MixtureLoader(config, rank, world, labels)
    return ModalityLoader(config.for_modality(config.modalities[0]), rank, world, labels=labels)
