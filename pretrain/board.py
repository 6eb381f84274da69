"""TensorBoard files of a run: the scalars of its rows, its configuration and pictures of masked batches.

python -m pretrain.board run=DIR [port=6006] shows them.
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad
from torch.utils.tensorboard import SummaryWriter

from configs.command import run
from configs.schema import BoardConfig
from data_shards.batch import MaskedBatch
from models.vision import normalise
from pretrain.metrics import MetricsRow, ProbeResult

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
    "samples_per_s": "speed/samples_per_s",
    "tokens_per_s": "speed/tokens_per_s",
    "tflops": "speed/tflops",
    "mfu": "speed/mfu",
    "data_wait": "speed/data_wait",
    "step_s": "speed/step_s",
    "memory_gib": "speed/memory_gib",
    "skipped_steps": "health/skipped_steps",
    "bad_samples": "data/bad_samples",
    "loss_scale": "optimizer/loss_scale",
}
_PICTURE_SIDE = 112  # smaller images are enlarged to at least this many pixels
_GREY, _HATCH, _GAP = 128, 168, 4  # masked patches, their stripes; white pixels between images


class Board:
    """Writer of RUN/tensorboard. Only rank 0 makes one.

    As in metrics.jsonl, a run that continues after `resume_step` hides what an earlier life wrote beyond that step
    (everything, if `resume_step` is 0).
    """

    def __init__(self, folder: Path, resume_step: int) -> None:
        purge_step = resume_step + 1 if resume_step > 0 else 0
        self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    def write(self, row: MetricsRow) -> None:
        """Add every figure of the row at its step; a figure that is None is left out."""
        figures = {tag: getattr(row, field) for field, tag in _TAGS.items()}
        self._add(row.step, figures)

    def write_probe(self, step: int, result: ProbeResult) -> None:
        """Add the accuracies of a probe taken after `step` steps."""
        figures = {name: value for name, value in asdict(result).items() if name.endswith("top1")}
        self._add(step, {f"probe/{name}": value for name, value in figures.items()})

    def write_config(self, step: int, yaml: str) -> None:
        """Add the resolved configuration as text, in a code block."""
        self._writer.add_text("config", f"```yaml\n{yaml.rstrip()}\n```", step)
        self._writer.flush()

    def write_picture(self, step: int, batch: MaskedBatch) -> None:
        """Add the first images of a micro-batch as the student and the teacher see them."""
        self._writer.add_image("masked_batch", masked_batch_picture(batch), step, dataformats="CHW")
        self._writer.flush()

    def close(self) -> None:
        """Write what is buffered and close; a second call does nothing."""
        self._writer.close()

    def _add(self, step: int, figures: dict[str, float | None]) -> None:
        for tag, value in figures.items():
            if value is not None:
                self._writer.add_scalar(tag, value, step)
        self._writer.flush()  # a killed run shows its last row


def masked_batch_picture(batch: MaskedBatch, images: int = 8) -> Tensor:
    """Two rows of up to `images` images, uint8 [3, h, w]: above with their colours jittered, before normalisation, as
    the teacher sees them; below with the patches hatched that the student does not see."""
    batch = batch.map(lambda tensor: tensor[:images].cpu())
    whole = enlarge(jitter_colors(batch.inputs, batch.color), _PICTURE_SIDE)
    hidden = _pixel_mask(batch.mask, whole.shape[-1])
    masked = torch.where(hidden, _hatching(whole.shape[-1]), whole)
    return torch.cat([_row(whole), _row(masked)], dim=1)


def jitter_colors(inputs: Tensor, color: Tensor) -> Tensor:
    """uint8 images [B, 3, S, S] under the colour maps [B, 3, 4], by the function that the model applies."""
    pixels = normalise(inputs, color, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), dtype=torch.float32)
    return (pixels * 255).round().to(torch.uint8)


def enlarge(images: Tensor, side: int) -> Tensor:
    """Images [B, 3, S, S], each pixel repeated a whole number of times so that they are at least `side` wide."""
    factor = max(1, math.ceil(side / images.shape[-1]))
    return images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def _pixel_mask(mask: Tensor, side: int) -> Tensor:
    """bool [B, 1, side, side] of patch masks [B, T], patches in row-major order."""
    grid = math.isqrt(mask.shape[1])
    assert grid**2 == mask.shape[1], f"{mask.shape[1]} patches are not a square"
    patches = mask.reshape(-1, 1, grid, grid).float()
    return interpolate(patches, size=(side, side), mode="nearest").bool()


def _hatching(side: int) -> Tensor:
    """uint8 [1, side, side]: grey with diagonal stripes, which no image is likely to hold."""
    diagonal = torch.arange(side)[:, None] + torch.arange(side)[None, :]
    return torch.where(diagonal % 8 < 2, _HATCH, _GREY).to(torch.uint8)[None]


def _row(images: Tensor) -> Tensor:
    """Images [B, 3, s, s] side by side with a white frame around each: uint8 [3, h, w]."""
    framed = pad(images, (_GAP // 2,) * 4, value=255)
    return torch.cat(list(framed), dim=2)


def main(command: BoardConfig) -> None:
    """Become TensorBoard on the files of a run, or of all runs in a folder."""
    folder = Path(command.run)
    if not any(folder.rglob("events.out.tfevents.*")):
        raise ValueError(f"run={folder} holds no TensorBoard files: give the folder of a run, or of several")
    tensorboard = [sys.executable, "-m", "tensorboard.main", f"--logdir={folder}"]
    os.execv(sys.executable, [*tensorboard, f"--port={command.port}", f"--host={command.host}"])


if __name__ == "__main__":
    run(BoardConfig, main, sys.argv[1:])
