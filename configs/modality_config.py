"""One modality of a run, with a value for every key: `PretrainConfig.for_modality` makes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from configs.published import PUBLISHED, Averaged, Normalisation, Objective, Published, Reduction, Target
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
class MultiMasks:
    """The keys `masks.*` of `MasksConfig`, none of them null."""

    count: int
    fraction: float
    adjust: float
    block: int

    def visible(self, tokens: int) -> int:
        """Tokens of `tokens` that the student sees of an image or a text: one at least, and not all."""
        return min(max(int(tokens * (1 - self.fraction) + _ROUNDING), 1), tokens - 1)

    def hidden(self, tokens: int) -> int:
        """Frames of `tokens` that a mask hides of a clip: one at least, and not all."""
        return min(max(int(tokens * self.fraction + _ROUNDING), 1), tokens - 1)


_ROUNDING = 1e-9
"""A product such as 100 * (1 - 0.9) is not to lose a token to the last bit of a float."""


@dataclass(frozen=True)
class DecoderSizes:
    """The keys `decoder.*` of `DecoderConfig`, none of them null."""

    layers: int
    width: int
    kernel: int
    groups: int
    residual: bool
    hidden: int
    dropout: float


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

    @property
    def longest(self) -> int | None:
        """Tokens of the longest sample, to which longer ones are cropped. None if all samples have one size."""
        return self.own.longest
