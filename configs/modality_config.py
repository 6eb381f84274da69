"""One modality of a run, with a value for every key: `PretrainConfig.for_modality` makes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from configs.published import (
    PUBLISHED,
    Averaged,
    DecoderSizes,
    MultiMasks,
    Normalisation,
    Objective,
    Published,
    Reduction,
    Target,
)
from configs.schema_modalities import Modality, SampleConfig, SpeechConfig, TextConfig, VisionConfig
from configs.schema_running import ProbeConfig
from configs.schema_training import BatchConfig, DataConfig


@dataclass(frozen=True)
class TransformerConfig:
    """The keys `model.*` of `ModelConfig`, none of them null."""

    size: str
    layers: int
    width: int
    heads: int
    ffn: int
    norm: Literal["pre", "post", "deep"]
    layer_scale: float
    dropout: float
    attention_dropout: float
    layer_drop: float
    drop_path: float
    activation_checkpointing: bool
    compile: bool


@dataclass(frozen=True)
class TargetConfig:
    """The keys `teacher.*` without those of the decay: how targets are made, which modules are averaged."""

    average: Averaged
    layers: int
    target: Target
    block_norm: Normalisation
    mean_norm: Normalisation


@dataclass(frozen=True)
class RegressionConfig:
    """The keys `loss.*` of `LossConfig`, none of them null."""

    beta: float
    reduction: Reduction
    cls: float


@dataclass(frozen=True)
class ModalityConfig:
    """The keys that act on one modality; in a mixture `batch`, `data` and `probe` hold `mixture.MODALITY`'s values."""

    objective: Objective
    modality: Modality
    model: TransformerConfig
    teacher: TargetConfig
    loss: RegressionConfig
    masks: MultiMasks | None
    """Several masks of each sample; None for `objective=v1`."""
    decoder: DecoderSizes | None
    """None for `objective=v1`."""
    vision: VisionConfig
    speech: SpeechConfig
    text: TextConfig
    batch: BatchConfig
    data: DataConfig
    probe: ProbeConfig
    seed: int
    """`train.seed`."""

    @property
    def published(self) -> Published:
        """The values that the objective was published with in this modality."""
        return PUBLISHED[self.objective, self.modality]

    @property
    def own(self) -> SampleConfig:
        """The section of the modality: `vision`, `speech` or `text`."""
        return getattr(self, self.modality)

    def hidden_tokens(self, tokens: int) -> int:
        """Return the number of a sample's `tokens` that each mask of data2vec 2.0 hides."""
        assert self.masks is not None
        return self.masks.hidden(tokens, self.modality == "vision")

    @property
    def longest(self) -> int | None:
        """Tokens of the longest sample, to which longer ones are cropped. None if all samples have one size."""
        return self.own.longest
