"""The rows of RUN/metrics.jsonl, and the file that keeps them through kills and restarts."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from configs.schema_modalities import Modality
from data_shards.files import replace_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MetricsRow:
    """One logged step. Rates and times are means over the steps since the row before; the rest is this step's.

    In a mixture a row is of one modality: so are its epoch, samples, rates and times.
    """

    step: int
    """Steps taken, this one included: the first row of a run that logs every step is 1."""
    epoch: int
    """Epoch that this step's samples belong to, from 0."""
    samples: int
    """Samples consumed since the start of training, over all ranks."""
    modality: str
    loss: float
    """Over the masked positions of the whole step."""
    lr: float
    """Learning rate used in this step."""
    teacher_decay: float
    """Decay tau used in this step."""
    grad_norm: float
    """Global gradient norm before clipping."""
    target_std: float
    """Mean over the dimensions of the targets' standard deviation over masked tokens; near 0 is collapse."""
    prediction_std: float
    """The same of the predictions."""
    masked_fraction: float
    """Masked tokens of all tokens, padding not counted."""
    padding: float
    """Padding of all tokens that were computed."""
    straggler_share: float
    """Share of the step's time that ranks wait for the one with the most positions, as far as positions take time."""
    samples_per_s: float
    """Over all ranks."""
    tokens_per_s: float
    """Over all ranks, padding not counted."""
    tflops: float
    """TFLOP/s of one rank: matrix products only, recomputation not counted."""
    mfu: float | None
    """`tflops` as a fraction of the device's peak; None where the peak is not known."""
    data_wait: float
    """Seconds a step waited for its data, of `step_s`, on rank 0."""
    data_wait_share: float
    """`data_wait` / `step_s`."""
    read_ms: float
    """Milliseconds of a loader process of rank 0 for reading a sample."""
    decode_ms: float
    """The same for decoding and augmenting it."""
    batch_ms: float
    """The same for masking and stacking it."""
    read_mb_per_s: float
    """Samples read, MB per second of training, by rank 0."""
    cache_hits: float | None
    """Share of rank 0's samples of remote shards whose chunk was on the node; None where all shards are local."""
    step_s: float
    """Seconds of a step."""
    memory_gib: float
    """Peak memory of rank 0 so far, in GiB: of the GPU, or the process's resident memory on a CPU."""
    skipped_steps: int
    """Steps so far that were not applied: not finite, spikes that were left out, and what rollbacks went back over."""
    spikes: int
    """Steps so far whose loss or gradient norm was far above those before."""
    rollbacks: int
    """Returns to a checkpoint so far."""
    bad_samples: int
    """Unreadable samples replaced so far."""
    loss_scale: float | None = None
    """Loss scale of fp16; None in other precisions."""
    bad_kinds: dict[str, int] | None = None
    """Unreadable samples met since the last start, by kind; None where there were none."""
    module_std: dict[str, float] | None = None
    """Standard deviation over tokens of each module's outputs (`pretrain.health.collapse`); None: not measured."""
    module_rank: dict[str, float] | None = None
    """The same for its effective rank."""


@dataclass(frozen=True)
class ProbeResult:
    """Top-1 accuracies in [0, 1] on the held-out samples of one modality."""

    modality: Modality
    knn_top1: float
    linear_top1: float
    baseline_knn_top1: float
    """The same neighbours' vote on features that need no network: see `pretrain.evaluation.baselines`."""
    baseline_linear_top1: float
    k: int
    train_samples: int
    test_samples: int


class MetricsFile:
    """Append-only JSON lines, one write per row. Only rank 0 opens it.

    A run that continues after `resume_step` keeps the rows up to that step and drops what an earlier life wrote
    beyond it, so that each step has one row. 0 means a run that starts anew and keeps nothing.

    Rows that a full disk does not take wait for room: metrics are no reason to end a run.
    """

    def __init__(self, path: Path, resume_step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            kept = [row for row in read_rows(path) if resume_step > 0 and row["step"] <= resume_step]
            replace_text(path, "".join(map(_line, kept)))
        self._file = path.open("ab", buffering=0)
        self._waiting = b""

    def write(self, row: MetricsRow) -> None:
        """Append the row of a step; a field that is None is left out."""
        self._append({key: value for key, value in asdict(row).items() if key == "mfu" or value is not None})

    def write_probe(self, step: int, result: ProbeResult) -> None:
        """Append the row of a probe taken after `step` steps (0: the untrained network)."""
        self._append({"step": step, **asdict(result)})

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()

    def _append(self, row: dict[str, Any]) -> None:
        had_room = not self._waiting
        self._waiting += _line(row).encode()
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            if had_room:
                log.warning("%s cannot be written (%s): its rows wait for room", self._file.name, error.strerror)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics file, without lines that a kill left half-written. Raises OSError where it cannot be read."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [row for row in map(_parse, lines) if row is not None]


def _parse(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _line(row: dict[str, Any]) -> str:
    """Strict JSON: a float that is not finite becomes null, which every reader accepts."""
    return json.dumps(_finite(row), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """`value`, or None for a float that is not finite; of a dict, that of its values."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
