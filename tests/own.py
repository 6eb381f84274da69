"""The configuration of a run's only modality."""

from __future__ import annotations

from configs.modality_config import ModalityConfig
from configs.schema import PretrainConfig


def own(config: PretrainConfig) -> ModalityConfig:
    """Return the configuration of the only modality of a run."""
    (modality,) = config.modalities
    return config.for_modality(modality)
