"""TensorBoard files of a run: curves, pictures, spectrograms and texts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from configs.schema import PretrainConfig
from data_shards.batch import MaskedBatch
from data_shards.text.tokenizer import Tokenizer
from pretrain.reporting.metrics import MetricsRow, ProbeResult, metrics
from pretrain.reporting.overview import hparams_summaries, layout
from pretrain.reporting.pictures import images_picture, spectrograms_picture, texts_markdown

log = logging.getLogger(__name__)


class Board:
    """Writer of RUN/tensorboard. Only rank 0 makes one.

    As in metrics.jsonl, a run that resumes at `resume_step` hides the figures of later steps; at 0 it hides all. In a
    mixture each tag ends with the name of the modality.
    """

    def __init__(
        self, folder: Path, resume_step: int, mixture: bool = False, tokenizer: Tokenizer | None = None
    ) -> None:
        """tokenizer: decodes texts; without it there are no pictures of texts."""
        self._mixture, self._tokenizer = mixture, tokenizer
        self._folder = folder
        self._purge_step: int | None = resume_step + 1 if resume_step > 0 else 0
        self._writer: SummaryWriter | None = None
        self._failed = False
        self._session_end: Any = None

    def write(self, row: MetricsRow) -> None:
        """Add every figure of the row at its step. Figures that are None are left out."""
        self._add(row.step, row_figures(row, self._mixture))

    def write_probe(self, step: int, result: ProbeResult) -> None:
        """Add the accuracies of a probe taken after `step` steps."""
        self._add(step, probe_figures(result, self._mixture))

    def write_config(self, step: int, config: PretrainConfig, yaml: str) -> None:
        """Add the resolved configuration as text, in a code block; the hyperparameters; and the charts to see first."""
        *begin, self._session_end = hparams_summaries(config)

        def add(writer: SummaryWriter) -> None:
            writer.add_custom_scalars(layout())
            for summary in begin:
                writer._get_file_writer().add_summary(summary, step)  # add_hparams would make a run of its own
            writer.add_text("config", f"```yaml\n{yaml.rstrip()}\n```", step)

        self._write(add)

    def write_picture(self, step: int, batch: MaskedBatch, errors: Tensor | None = None) -> None:
        """Add the first samples of a micro-batch as the student and the teacher see them.

        errors: [B, M, T], the losses of its tokens; None: none are shown.
        """
        tag = _tag("masked_batch", batch.modality, self._mixture)
        match batch.modality:
            case "vision":
                picture = images_picture(batch, errors)
                self._write(lambda writer: writer.add_image(tag, picture, step, dataformats="CHW"))
            case "speech":
                picture = spectrograms_picture(batch, errors)
                self._write(lambda writer: writer.add_image(tag, picture, step, dataformats="CHW"))
            case "text":
                if self._tokenizer:
                    text = texts_markdown(batch, self._tokenizer, errors)
                    self._write(lambda writer: writer.add_text(tag, text, step))

    def close(self) -> None:
        """Write buffered figures and the end of the session, and close. A second call does nothing."""
        if self._writer:
            with suppress(OSError):
                if self._session_end is not None:
                    self._writer._get_file_writer().add_summary(self._session_end)
                    self._session_end = None
                self._writer.close()

    def _write(self, add: Callable[[SummaryWriter], object]) -> None:
        """Call `add` and flush, so that a killed run shows its last row.

        After an error of a full disk the writer and its buffer are dropped, and the next call opens a new file: no
        figure is a reason to end a run.
        """
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

    def _add(self, step: int, figures: dict[str, float | None]) -> None:
        def add(writer: SummaryWriter) -> None:
            for name, value in figures.items():
                if value is not None:
                    writer.add_scalar(name, value, step)

        self._write(add)


def row_figures(row: MetricsRow, mixture: bool) -> dict[str, float | None]:
    """Return every figure of a row by its tag; in a mixture the tags end with the modality."""
    figures: dict[str, float | None] = {}
    for field, metric in metrics().items():
        value = getattr(row, field)
        if isinstance(value, dict):
            figures |= {f"{metric.tag}/{name}": inner for name, inner in value.items()}
        elif metric.tag:
            figures[metric.tag] = value
    return {_tag(name, row.modality, mixture): value for name, value in figures.items()}


def probe_figures(result: ProbeResult, mixture: bool) -> dict[str, float | None]:
    """Return the accuracies of a probe by their tags."""
    figures = {name: value for name, value in asdict(result).items() if name.endswith("top1")}
    return {_tag(f"probe/{name}", result.modality, mixture): value for name, value in figures.items()}


def _tag(name: str, modality: str, mixture: bool) -> str:
    return f"{name}/{modality}" if mixture else name
