"""The charts that TensorBoard shows first, and the hyperparameters of its HParams tab."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.tensorboard.summary import hparams

from configs.keys import flat, plain, written
from configs.output.secrets import masked
from configs.schema import PretrainConfig

LAYOUT = {
    "loss and probe": {
        "loss": ["loss"],
        "probe: linear": ["probe/linear_top1", "probe/baseline_linear_top1"],
        "probe: k-NN": ["probe/knn_top1", "probe/baseline_knn_top1"],
    },
    "health": {
        "spread of targets and predictions (near 0: a collapse)": ["health/target_std", "health/prediction_std"],
        "gradient norm": ["optimizer/grad_norm"],
        "steps not applied, spikes, returns": ["health/skipped_steps", "health/spikes", "health/rollbacks"],
        "spread of modules": ["health/std"],
        "rank of modules": ["health/rank"],
        "bad samples": ["data/bad_samples"],
    },
    "schedules": {"learning rate": ["optimizer/lr"], "decay of the teacher": ["teacher/decay"]},
    "speed": {
        "samples/s": ["speed/samples_per_s"],
        "share of a step that waits for data": ["speed/data_wait_share"],
        "memory, GiB": ["speed/memory_gib"],
    },
}
"""Category -> chart -> beginnings of the tags on it. TensorBoard shows them in this order."""

_SECTIONS = ("model", "teacher", "loss", "optimizer", "schedule", "batch", "train", "mixture")
"""Sections of hyperparameters, besides those of the run's modalities."""
_RESULTS = ("loss", "health/target_std", "probe/linear_top1", "probe/knn_top1")
"""Tags of the figures that the hyperparameters are compared by."""


def layout() -> dict[str, dict[str, list[Any]]]:
    """Return `LAYOUT` as `SummaryWriter.add_custom_scalars` takes it. Tags of a mixture match by their beginning."""
    return {
        category: {chart: ["Multiline", [rf"{tag}(/|$)" for tag in tags]] for chart, tags in charts.items()}
        for category, charts in LAYOUT.items()
    }


def hyperparameters(config: PretrainConfig) -> dict[str, str | float | bool]:
    """Return the keys of training with their values; a list, or a null, as the command line writes it."""
    sections = (*_SECTIONS, *config.modalities)
    found: dict[str, str | float | bool] = {}
    for key, value in flat(plain(config)).items():
        if key.partition(".")[0] in sections or key in ("recipe", "objective", "modality", "precision", "init"):
            found[key] = value if isinstance(value, bool | int | float) else masked(written(value))
    return found


def hparams_summaries(config: PretrainConfig) -> Iterator[Any]:
    """Yield the summaries of TensorBoard's HParams tab: the experiment, the start of this session, and its end."""
    suffixes = [f"/{modality}" for modality in config.modalities] if config.is_mixture else [""]
    yield from hparams(hyperparameters(config), {f"{tag}{suffix}": 0.0 for tag in _RESULTS for suffix in suffixes})
