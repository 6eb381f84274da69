"""TensorBoard's files of a run: curves, pictures, spectrograms, texts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from data_shards.batch import MaskedBatch
from data_shards.text.tokenizer import Tokenizer
from pretrain.reporting.metrics import MetricsRow, ProbeResult
from pretrain.reporting.pictures import images_picture, spectrograms_picture, texts_markdown

log = logging.getLogger(__name__)

_TAGS = {
    "epoch": "data/epoch",
    "samples": "data/samples",
    "loss": "loss",
    "lr": "optimizer/lr",
    "teacher_decay": "teacher/decay",
    "grad_norm": "optimizer/grad_norm",
    "target_std": "health/target_std",
    "prediction_std": "health/prediction_std",
    "masked_fraction": "data/masked_fraction",
    "padding": "data/padding",
    "samples_per_s": "speed/samples_per_s",
    "tokens_per_s": "speed/tokens_per_s",
    "tflops": "speed/tflops",
    "mfu": "speed/mfu",
    "data_wait": "speed/data_wait",
    "data_wait_share": "speed/data_wait_share",
    "read_ms": "data/read_ms",
    "decode_ms": "data/decode_ms",
    "batch_ms": "data/batch_ms",
    "read_mb_per_s": "data/read_mb_per_s",
    "cache_hits": "data/cache_hits",
    "straggler_share": "data/straggler_share",
    "step_s": "speed/step_s",
    "memory_gib": "speed/memory_gib",
    "skipped_steps": "health/skipped_steps",
    "spikes": "health/spikes",
    "rollbacks": "health/rollbacks",
    "bad_samples": "data/bad_samples",
    "loss_scale": "optimizer/loss_scale",
}


class Board:
    """Writer of RUN/tensorboard. Only rank 0 makes one.

    As in metrics.jsonl, a run that continues after `resume_step` hides what an earlier life wrote beyond that step
    (everything, if `resume_step` is 0). In a mixture the name of the modality ends each tag.
    """

    def __init__(
        self, folder: Path, resume_step: int, mixture: bool = False, tokenizer: Tokenizer | None = None
    ) -> None:
        """tokenizer: shows the tokens of text; without one there are no pictures of them."""
        self._mixture, self._tokenizer = mixture, tokenizer
        self._folder = folder
        self._purge_step: int | None = resume_step + 1 if resume_step > 0 else 0
        self._writer: SummaryWriter | None = None
        self._failed = False

    def write(self, row: MetricsRow) -> None:
        """Add every figure of the row at its step; a figure that is None is left out."""
        figures = {tag: getattr(row, field) for field, tag in _TAGS.items()}
        groups = {"data/bad": row.bad_kinds, "health/std": row.module_std, "health/rank": row.module_rank}
        named = {f"{tag}/{name}": value for tag, group in groups.items() for name, value in (group or {}).items()}
        self._add(row.step, row.modality, figures | named)

    def write_probe(self, step: int, result: ProbeResult) -> None:
        """Add the accuracies of a probe taken after `step` steps."""
        figures = {name: value for name, value in asdict(result).items() if name.endswith("top1")}
        self._add(step, result.modality, {f"probe/{name}": value for name, value in figures.items()})

    def write_config(self, step: int, yaml: str) -> None:
        """Add the resolved configuration as text, in a code block."""
        self._write(lambda writer: writer.add_text("config", f"```yaml\n{yaml.rstrip()}\n```", step))

    def write_picture(self, step: int, batch: MaskedBatch) -> None:
        """Add the first samples of a micro-batch as the student and the teacher see them."""
        tag = self._tag("masked_batch", batch.modality)
        match batch.modality:
            case "vision":
                picture = images_picture(batch)
                self._write(lambda writer: writer.add_image(tag, picture, step, dataformats="CHW"))
            case "speech":
                picture = spectrograms_picture(batch)
                self._write(lambda writer: writer.add_image(tag, picture, step, dataformats="CHW"))
            case "text":
                if self._tokenizer:
                    text = texts_markdown(batch, self._tokenizer)
                    self._write(lambda writer: writer.add_text(tag, text, step))

    def close(self) -> None:
        """Write what is buffered and close; a second call does nothing."""
        if self._writer:
            with suppress(OSError):
                self._writer.close()

    def _write(self, add: Callable[[SummaryWriter], object]) -> None:
        """Add something and flush, so that a killed run shows its last row. A writer that a full disk has stopped is
        given up, with what it held, for a new file: no figure is a reason to end a run."""
        try:
            if self._writer is None:
                self._writer = SummaryWriter(str(self._folder), purge_step=self._purge_step)
            add(self._writer)
            self._writer.flush()
            self._failed, self._purge_step = False, None
        except OSError as error:
            if not self._failed:
                log.warning("%s cannot be written (%s): figures will be missing there", self._folder, error.strerror)
            self._failed, self._writer = True, None

    def _tag(self, name: str, modality: str) -> str:
        return f"{name}/{modality}" if self._mixture else name

    def _add(self, step: int, modality: str, figures: dict[str, float | None]) -> None:
        def add(writer: SummaryWriter) -> None:
            for name, value in figures.items():
                if value is not None:
                    writer.add_scalar(self._tag(name, modality), value, step)

        self._write(add)
