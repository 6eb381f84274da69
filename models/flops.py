"""Parameters, and floating-point operations of a training step: for MFU and the estimate.

Counted are the matrix products that the objective needs, a multiply-add as two operations. Stochastic depth and layer
drop count by their expectation, and padding does not count. The last block counts for the masked tokens alone if no
others are needed. Recomputation by activation checkpointing does not count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from configs.modality_config import ModalityConfig, TransformerConfig
from configs.schema import PretrainConfig
from configs.schema_modalities import SpeechConfig
from configs.signals import CONV_KERNELS, CONV_STRIDES, samples_of
from models.build import make_student

_Count = np.ndarray | float


def parameters(config: PretrainConfig) -> int:
    """Parameters of the student, regression heads and mask vectors included, of all modalities of a mixture."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in make_student(config).parameters())


def flops(config: ModalityConfig, lengths: Sequence[int], masked: Sequence[int]) -> float:
    """Operations of a training step on samples with the given numbers of real and of masked tokens.

    The sum of the student's forward and backward pass and the teacher's forward pass.
    """
    return float(_samples(config, np.array(lengths, float), np.array(masked, float)).sum())


def _samples(config: ModalityConfig, tokens: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """Operations of a training step on each sample. A backward pass counts twice its forward pass, less the part that
    needs no gradient.

    All samples at once, here and below: this is counted at every step.
    """
    model, teacher = config.model, config.teacher
    keep = [(1 - model.drop_path * i / max(model.layers - 1, 1)) * (1 - model.layer_drop) for i in range(model.layers)]
    teacher_rows = tokens if "instance" in (teacher.block_norm, teacher.mean_norm) else masked
    first, local, positions, head = _around_blocks(config, tokens)
    tokens = tokens + (config.modality == "vision")  # CLS
    student_pass = local + positions + _blocks(model, tokens, masked, keep) + masked * head
    teacher_pass = positions + _blocks(model, tokens, teacher_rows, [1.0] * model.layers)
    teacher_pass += first + local if teacher.average == "all" else 0
    return teacher_pass + 3 * student_pass + 2 * first


def _around_blocks(config: ModalityConfig, tokens: np.ndarray) -> tuple[_Count, _Count, _Count, float]:
    """Forward operations of each sample before and after the blocks, in four parts.

    The first layer, whose input needs no gradient; the other layers before the blocks; the positions; and the head for
    one token.
    """
    width = config.model.width
    match config.modality:
        case "vision":
            return 2 * tokens * 3 * config.vision.patch_size**2 * width, 0, 0, 2 * width**2
        case "speech":
            first, *others = _convolutions(config.speech, tokens)
            projection = 2 * tokens * config.speech.conv_width * width
            window = config.speech.position_layers * config.speech.position_kernel
            positions = 2 * tokens * window * width**2 / config.speech.position_groups
            return first, sum(others) + projection, positions, 2 * width**2
    return 0, 0, 0, 8 * width**2


def _convolutions(speech: SpeechConfig, frames: np.ndarray) -> list[np.ndarray]:
    """Forward operations of each layer of the feature encoder."""
    length, channels, operations = samples_of(frames), 1, []
    for kernel, stride in zip(CONV_KERNELS, CONV_STRIDES, strict=True):
        length = (length - kernel) // stride + 1
        operations.append(2.0 * length * kernel * channels * speech.conv_width)
        channels = speech.conv_width
    return operations


def _blocks(model: TransformerConfig, tokens: np.ndarray, rows: np.ndarray, keep: list[float]) -> np.ndarray:
    """Forward operations of all blocks, each run with its probability in `keep`. The last one answers `rows` tokens
    alone."""
    return sum(keep[:-1]) * _block(model, tokens, tokens) + keep[-1] * _block(model, tokens, rows)


def _block(model: TransformerConfig, tokens: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Forward operations of a block on `tokens` tokens that answers `rows` of them."""
    keys_values = 4 * tokens * model.width**2
    queries_output = 4 * rows * model.width**2
    attention = 4 * rows * tokens * model.width
    return keys_values + queries_output + attention + 4 * rows * model.width * model.ffn
