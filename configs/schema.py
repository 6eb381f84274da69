"""The root of the configuration: top-level keys and sections, with types, defaults, meanings and bounds.

Defaults live here; the YAML files of `configs/` hold only the values that differ from them. `compose.py` turns hydra's
result into these classes and names unknown keys. A field that is a Python keyword (`batch.global`) carries an alias;
the alias is the key that users write. `--help` shows each docstring alone, so write other keys in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields, replace
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from configs.modality_config import ModalityConfig, RegressionConfig, TargetConfig, TransformerConfig
from configs.published import (
    BASE_LAYERS,
    BASE_WIDTH,
    PUBLISHED,
    DecoderSizes,
    MultiMasks,
    Objective,
    Published,
)
from configs.schema_modalities import MODALITIES, STRICT, LocalPath, Modality, SpeechConfig, TextConfig, VisionConfig
from configs.schema_objective import DecoderConfig, LossConfig, MasksConfig, TeacherConfig
from configs.schema_running import (
    CheckpointConfig,
    ClusterConfig,
    DeepSpeedConfig,
    GuardConfig,
    LaunchConfig,
    LogConfig,
    ProbeConfig,
    RunConfig,
    TrainConfig,
    WatchdogConfig,
)
from configs.schema_training import (
    BatchConfig,
    DataConfig,
    MixtureConfig,
    MixturePart,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
)


@dataclass(config=STRICT)
class PretrainConfig:
    """`./run.sh pretrain`: Pretrain a model, or resume its run."""

    recipe: str = "demo"
    """Name of a file in configs/recipe/ whose values replace the defaults. Not given: with shards of your own the
    neutral recipe of their modality (vision, speech, text), without any the demo of `modality`."""
    demo: bool = False
    """Train on packaged images, recordings or texts. Their shards are built for each modality that names none in
    `data.shards` or `mixture.MODALITY.shards`."""
    objective: Objective = "v1"
    """Training objective. v1: data2vec (Baevski et al. 2022, arXiv 2202.03555). v2: data2vec 2.0 (arXiv 2212.07525):
    several masks of each sample, a student that sees the visible tokens alone, a convolutional decoder."""
    modality: Modality | tuple[Modality, ...] = "vision"
    """Kind of samples: vision, speech or text. Not given: that of the recipe, or of `data.shards`. A list makes a
    mixture, e.g. [vision,speech,text]; see `mixture.*`."""
    init: LocalPath = ""
    """Source of the initial weights: a run directory, or a Hugging Face folder of the same model. Positions of another
    number of patches or tokens, and the types of another vocabulary, are made from those there. Optimizer and schedule
    begin anew. A run that resumes ignores it. "": random weights."""
    init_teacher: bool = False
    """Start the teacher from the teacher of the run `init`. False: from its student, as in the second phase of the
    published Large. A Hugging Face folder has one set of weights, for both."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Number format of the forward and backward pass. auto: bf16 on a GPU, fp32 on a CPU. fp16 needs a GPU. The
    optimizer and the teacher always compute in fp32. Published: fp16."""
    model: ModelConfig = field(default_factory=ModelConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    speech: SpeechConfig = field(default_factory=SpeechConfig)
    text: TextConfig = field(default_factory=TextConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    masks: MasksConfig = field(default_factory=MasksConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    deepspeed: DeepSpeedConfig = field(default_factory=DeepSpeedConfig)
    run: RunConfig = field(default_factory=RunConfig)
    log: LogConfig = field(default_factory=LogConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The run's modalities in the order of `MODALITIES`: one, or several in a mixture."""
        named = (self.modality,) if isinstance(self.modality, str) else self.modality
        return tuple(modality for modality in MODALITIES if modality in named)

    @property
    def is_mixture(self) -> bool:
        """True if `modality` lists several."""
        return len(self.modalities) > 1

    def for_modality(self, modality: Modality) -> ModalityConfig:
        """Return the configuration of one of the run's modalities, each null replaced by the published value.

        In a mixture, batch, shards and probe are those of `mixture.MODALITY`, and shared blocks are pre-norm by
        default.
        """
        own = PUBLISHED[self.objective, modality]
        norm = own.norm if not self.is_mixture or self.mixture.blocks == "separate" else "pre"
        model = {"norm": norm, "dropout": own.dropout, "attention_dropout": own.dropout, "layer_scale": 0.0}
        if self.objective == "v1":
            model["layer_scale"] = 1e-4 if self.model.width <= BASE_WIDTH else 1e-5
        targets = {field.name: getattr(own, field.name) for field in fields(TargetConfig)}
        targets["layers"] = max(1, round(own.layers * self.model.layers / BASE_LAYERS))
        share = getattr(self.mixture, modality) if self.is_mixture else MixturePart()
        samples = {name: getattr(self, name) for name in MODALITIES}
        if self.vision.positions is None:
            samples["vision"] = replace(self.vision, positions="sincos" if self.objective == "v2" else "relative")
        return ModalityConfig(
            objective=self.objective,
            modality=modality,
            model=TransformerConfig(**_filled(self.model, TransformerConfig, model)),
            teacher=TargetConfig(**_filled(self.teacher, TargetConfig, targets)),
            loss=RegressionConfig(**_filled(self.loss, RegressionConfig, vars(own))),
            masks=MultiMasks(**_filled(self.masks, MultiMasks, vars(own.masks))) if own.masks else None,
            decoder=self._decoder(own),
            batch=self._batch(share, one_size=samples[modality].longest is None),
            data=replace(self.data, shards=share.shards, weights=share.weights) if self.is_mixture else self.data,
            probe=self._probe(share) if self.is_mixture else self.probe,
            seed=self.train.seed,
            **samples,
        )

    def _decoder(self, own: Published) -> DecoderSizes | None:
        """Return the decoder's sizes, the published width in the proportion of the model's to Base's."""
        if own.decoder is None:
            return None
        groups = self.decoder.groups or own.decoder.groups
        scaled = own.decoder.width * self.model.width / BASE_WIDTH
        width = self.decoder.width or max(1, round(scaled / groups)) * groups
        defaults = vars(own.decoder) | {"width": width, "hidden": own.decoder.hidden * width // own.decoder.width}
        return DecoderSizes(**_filled(self.decoder, DecoderSizes, defaults))

    def _batch(self, share: MixturePart, one_size: bool) -> BatchConfig:
        """Return the batch of a modality. Samples of one size are never batched by tokens."""
        return replace(
            self.batch,
            global_=share.global_ or self.batch.global_,
            micro=share.micro or self.batch.micro,
            micro_tokens=share.micro_tokens or self.batch.micro_tokens,
            equal="samples" if one_size else self.batch.equal,
        )

    def _probe(self, share: MixturePart) -> ProbeConfig:
        return replace(self.probe, train_shards=share.probe_train_shards, test_shards=share.probe_test_shards)


def _filled(section: Any, cls: type, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `cls` from `section`; those that are null there from `defaults`."""
    values = {field.name: getattr(section, field.name) for field in fields(cls)}
    return {name: defaults.get(name) if value is None else value for name, value in values.items()}
