"""Metrics of a logged step: every field with its meaning, unit and TensorBoard tag, and the table for the docs.

python -m pretrain.reporting.metrics prints the table.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from typing import Annotated, NamedTuple, get_type_hints

from configs.schema_modalities import Modality


class Metric(NamedTuple):
    """A field of a row."""

    meaning: str
    unit: str = ""
    """"" for a number without a unit."""
    tag: str = ""
    """Tag of its curve in TensorBoard, or the prefix of the tags of a dict's values; "" for no curve."""


@dataclass(frozen=True)
class StepMetrics:
    """Figures of the logged step itself. In a mixture epoch and samples are those of the step's modality."""

    step: Annotated[
        int, Metric("Steps taken, including this one. The first row of a run that logs every step has 1.", unit="steps")
    ]
    epoch: Annotated[int, Metric("Epoch of this step's samples, from 0.", unit="epochs", tag="data/epoch")]
    samples: Annotated[
        int, Metric("Samples consumed since the start of training, over all ranks.", unit="samples", tag="data/samples")
    ]
    modality: Annotated[Modality, Metric("Modality of the step.")]
    loss: Annotated[float, Metric("Loss over the masked positions of the whole step.", tag="loss")]
    lr: Annotated[float, Metric("Learning rate used in this step.", tag="optimizer/lr")]
    teacher_decay: Annotated[float, Metric("Decay of the moving average used in this step.", tag="teacher/decay")]
    grad_norm: Annotated[float, Metric("Global gradient norm before clipping.", tag="optimizer/grad_norm")]
    target_std: Annotated[
        float,
        Metric(
            "Standard deviation of the targets over masked tokens, averaged over dimensions. Near 0 is a collapse.",
            tag="health/target_std",
        ),
    ]
    prediction_std: Annotated[float, Metric("The same for the predictions.", tag="health/prediction_std")]
    masked_fraction: Annotated[
        float,
        Metric("Masked tokens divided by all tokens without padding.", unit="fraction", tag="data/masked_fraction"),
    ]
    padding: Annotated[
        float, Metric("Share of the computed token positions that are padding.", unit="fraction", tag="data/padding")
    ]
    straggler_share: Annotated[
        float,
        Metric(
            "Estimated share of a step lost to the slowest rank: 1 - mean / max of the positions per rank.",
            unit="fraction",
            tag="data/straggler_share",
        ),
    ]


@dataclass(frozen=True)
class Rates:
    """Means over the steps since the previous row. In a mixture only steps of the row's modality count."""

    samples_per_s: Annotated[float, Metric("Throughput over all ranks.", unit="samples/s", tag="speed/samples_per_s")]
    tokens_per_s: Annotated[
        float, Metric("Throughput over all ranks, without padding.", unit="tokens/s", tag="speed/tokens_per_s")
    ]
    tflops: Annotated[
        float,
        Metric(
            "Rate of one rank. Counts matrix products only, and no recomputation.", unit="TFLOP/s", tag="speed/tflops"
        ),
    ]
    mfu: Annotated[
        float | None,
        Metric(
            "`tflops` divided by the device's peak; null if the peak is not known (`log.peak_tflops` sets it).",
            unit="fraction",
            tag="speed/mfu",
        ),
    ]
    data_wait: Annotated[
        float,
        Metric("Time that a step waited for its data on rank 0. Part of `step_s`.", unit="s", tag="speed/data_wait"),
    ]
    data_wait_share: Annotated[
        float, Metric("`data_wait` divided by `step_s`.", unit="fraction", tag="speed/data_wait_share")
    ]
    read_ms: Annotated[
        float, Metric("Time of a loader process of rank 0 to read one sample.", unit="ms", tag="data/read_ms")
    ]
    decode_ms: Annotated[
        float,
        Metric("Time of a loader process of rank 0 to decode and augment one sample.", unit="ms", tag="data/decode_ms"),
    ]
    batch_ms: Annotated[
        float,
        Metric(
            "Time per sample of a loader process of rank 0 to mask and stack a batch.", unit="ms", tag="data/batch_ms"
        ),
    ]
    read_mb_per_s: Annotated[
        float, Metric("Sample bytes read by rank 0 per second of training.", unit="MB/s", tag="data/read_mb_per_s")
    ]
    cache_hits: Annotated[
        float | None,
        Metric(
            "Share of rank 0's samples of remote shards whose chunk was already on the node. "
            "Absent if all shards are local.",
            unit="fraction",
            tag="data/cache_hits",
        ),
    ]
    step_s: Annotated[float, Metric("Duration of a step.", unit="s", tag="speed/step_s")]


@dataclass(frozen=True)
class MetricsRow(Rates, StepMetrics):  # dataclasses take the fields of the last base first
    """A logged step: a row of metrics.jsonl."""

    memory_gib: Annotated[
        float,
        Metric(
            "Peak memory of rank 0 so far: of the GPU, or resident memory of the process on a CPU.",
            unit="GiB",
            tag="speed/memory_gib",
        ),
    ]
    skipped_steps: Annotated[
        int,
        Metric(
            "Steps so far that were not applied: not finite, skipped spikes, and steps that a rollback discarded.",
            unit="steps",
            tag="health/skipped_steps",
        ),
    ]
    spikes: Annotated[
        int,
        Metric(
            "Steps so far whose loss or gradient norm was far above the recent ones.", unit="steps", tag="health/spikes"
        ),
    ]
    rollbacks: Annotated[int, Metric("Returns to a checkpoint so far.", unit="rollbacks", tag="health/rollbacks")]
    bad_samples: Annotated[
        int, Metric("Samples that could not be used and were replaced, so far.", unit="samples", tag="data/bad_samples")
    ]
    loss_scale: Annotated[
        float | None, Metric("Loss scale of fp16. Absent in other precisions.", tag="optimizer/loss_scale")
    ] = None
    bad_kinds: Annotated[
        dict[str, int] | None,
        Metric("Bad samples so far, by kind. Absent if there were none.", unit="samples", tag="data/bad"),
    ] = None
    module_std: Annotated[
        dict[str, float] | None,
        Metric(
            "Standard deviation over tokens of each module's outputs. Absent if not measured at this row.",
            tag="health/std",
        ),
    ] = None
    module_rank: Annotated[
        dict[str, float] | None,
        Metric("Effective rank of each module's outputs. Absent if not measured at this row.", tag="health/rank"),
    ] = None
    module_sample_share: Annotated[
        dict[str, float] | None,
        Metric(
            "Share of the variance of each module's outputs that is between samples at one position; near 0 if "
            "position alone decides them. Absent if not measured at this row.",
            tag="health/sample_share",
        ),
    ] = None


@dataclass(frozen=True)
class ProbeResult:
    """Top-1 accuracies in [0, 1] on the held-out samples of one modality."""

    modality: Modality
    knn_top1: float
    linear_top1: float
    baseline_knn_top1: float
    """Accuracy of the same k-NN on features that need no network: see `pretrain.evaluation.baselines`."""
    baseline_linear_top1: float
    """Accuracy of the same linear classifier on those features."""
    k: int
    """Number of neighbours that vote."""
    train_samples: int
    test_samples: int


@functools.cache
def metrics() -> dict[str, Metric]:
    """Every field of a row, in the order of the row."""
    hints = get_type_hints(MetricsRow, include_extras=True)
    return {field.name: hints[field.name].__metadata__[0] for field in fields(MetricsRow)}


def table() -> str:
    """Markdown table of all fields, for docs/metrics.md."""
    rows = [f"| `{name}` | {metric.unit} | {metric.meaning} |" for name, metric in metrics().items()]
    return "\n".join(["| field | unit | meaning |", "|---|---|---|", *rows])


if __name__ == "__main__":
    print(table())
