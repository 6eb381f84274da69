"""TensorBoard files of a run: the scalars of its rows, its configuration and pictures of masked batches.

python -m pretrain.board run=DIR [port=6006] shows them.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from configs.command import run
from configs.schema import BoardConfig
from data_shards.batch import MaskedBatch
from data_shards.tokenizer import Tokenizer
from pretrain.metrics import MetricsRow, ProbeResult
from pretrain.pictures import images_picture, spectrograms_picture, texts_markdown

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
    "waiting": "data/waiting",
    "step_s": "speed/step_s",
    "memory_gib": "speed/memory_gib",
    "skipped_steps": "health/skipped_steps",
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
        purge_step = resume_step + 1 if resume_step > 0 else 0
        self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    def write(self, row: MetricsRow) -> None:
        """Add every figure of the row at its step; a figure that is None is left out."""
        figures = {tag: getattr(row, field) for field, tag in _TAGS.items()}
        kinds = {f"data/bad/{kind}": count for kind, count in (row.bad_kinds or {}).items()}
        self._add(row.step, row.modality, figures | kinds)

    def write_probe(self, step: int, result: ProbeResult) -> None:
        """Add the accuracies of a probe taken after `step` steps."""
        figures = {name: value for name, value in asdict(result).items() if name.endswith("top1")}
        self._add(step, result.modality, {f"probe/{name}": value for name, value in figures.items()})

    def write_config(self, step: int, yaml: str) -> None:
        """Add the resolved configuration as text, in a code block."""
        self._writer.add_text("config", f"```yaml\n{yaml.rstrip()}\n```", step)
        self._writer.flush()

    def write_picture(self, step: int, batch: MaskedBatch) -> None:
        """Add the first samples of a micro-batch as the student and the teacher see them."""
        tag = self._tag("masked_batch", batch.modality)
        match batch.modality:
            case "vision":
                self._writer.add_image(tag, images_picture(batch), step, dataformats="CHW")
            case "speech":
                self._writer.add_image(tag, spectrograms_picture(batch), step, dataformats="CHW")
            case "text":
                if self._tokenizer:
                    self._writer.add_text(tag, texts_markdown(batch, self._tokenizer), step)
        self._writer.flush()

    def close(self) -> None:
        """Write what is buffered and close; a second call does nothing."""
        self._writer.close()

    def _tag(self, name: str, modality: str) -> str:
        return f"{name}/{modality}" if self._mixture else name

    def _add(self, step: int, modality: str, figures: dict[str, float | None]) -> None:
        for name, value in figures.items():
            if value is not None:
                self._writer.add_scalar(self._tag(name, modality), value, step)
        self._writer.flush()  # a killed run shows its last row


def main(command: BoardConfig) -> None:
    """Become TensorBoard on the files of a run, or of all runs in a folder."""
    folder = Path(command.run)
    if not any(folder.rglob("events.out.tfevents.*")):
        raise ValueError(f"run={folder} holds no TensorBoard files: give the folder of a run, or of several")
    tensorboard = [sys.executable, "-m", "tensorboard.main", f"--logdir={folder}"]
    os.execv(sys.executable, [*tensorboard, f"--port={command.port}", f"--host={command.host}"])


if __name__ == "__main__":
    run(BoardConfig, main, sys.argv[1:])
