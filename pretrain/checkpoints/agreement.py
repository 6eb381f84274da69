"""Agreement of a run with the checkpoint that it resumes from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.schema import PretrainConfig
from configs.schema_modalities import Modality

_DECODER_SHAPE = ("layers", "width", "kernel", "groups", "hidden")


def agreement(config: PretrainConfig) -> dict[str, Any]:
    """Config keys that must be equal in the run that saves and the one that resumes, with their values.

    They determine the parameters and the order of the samples. Ranks, ZeRO stage, precision and micro-batches may
    change.
    """
    configs = [config.for_modality(modality) for modality in config.modalities]
    agreed: dict[str, Any] = {
        "objective": config.objective,
        "modality": f"[{','.join(config.modalities)}]" if config.is_mixture else config.modality,
        "train.seed": config.train.seed,
        "model.layers": config.model.layers,
        "model.width": config.model.width,
        "model.heads": config.model.heads,
        "model.ffn": config.model.ffn,
        "model.layer_scale > 0": configs[0].model.layer_scale > 0,
        "model.norm": _common([own.model.norm for own in configs]),
        "teacher.average": _common([own.teacher.average for own in configs]),
        "optimizer.decay_rule": config.optimizer.decay_rule,
    }
    if config.objective == "v2":
        agreed |= {f"decoder.{key}": _common([getattr(own.decoder, key) for own in configs]) for key in _DECODER_SHAPE}
    if config.is_mixture:
        agreed["mixture.blocks"] = config.mixture.blocks
    for modality in config.modalities:
        agreed |= _shape(config, modality)
    return agreed


def _shape(config: PretrainConfig, modality: Modality) -> dict[str, Any]:
    """Config keys that the parameters of a modality's own modules depend on, with their values."""
    section = config.for_modality(modality).own
    return {f"{modality}.{key}": getattr(section, key) for key in section.shape_keys}


def _common(values: Sequence[Any]) -> Any:
    """Value that all modalities share; "null" if they differ."""
    return values[0] if len(set(values)) == 1 else "null"


def check_agreement(folder: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise ValueError that names the key in which this run differs from the one that wrote the checkpoint `folder`."""
    for key, value in ({"objective": "v1"} | saved).items():  # checkpoints of 0.1.0 do not name the objective
        if now.get(key) != value:
            raise ValueError(
                f"{folder} was saved with {key} = {value}, this run has {now.get(key)}: "
                f"go on with {key}={value}, or choose another run.dir"
            )
