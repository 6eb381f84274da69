"""Parameters, and floating-point operations of a training step: for MFU and the estimate.

The matrix products that the objective needs are counted, a multiply-add as two operations. Stochastic depth and layer
drop count by their expectation, and padding does not count. The last block counts for the masked tokens alone if no
other outputs are needed. Recomputation by activation checkpointing does not count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from configs.modality_config import ModalityConfig, TransformerConfig
from configs.schema import PretrainConfig
from models.build import make_student, network_class


def parameters(config: PretrainConfig) -> int:
    """Return the number of the student's parameters over all modalities, regression heads and mask vectors included."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in make_student(config).parameters())


def flops(config: ModalityConfig, lengths: Sequence[int], masked: Sequence[int]) -> float:
    """Return the operations of a training step on samples with the given numbers of real and of masked tokens.

    They are the sum of the student's forward and backward pass and the teacher's forward pass. data2vec 2.0: each of
    `masks.count` masks hides that many tokens, and the student computes the others alone.
    """
    return float(_per_sample(config, np.array(lengths, float), np.array(masked, float)).sum())


def _per_sample(config: ModalityConfig, tokens: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """Return the operations of a training step on each sample, float64 [B].

    A backward pass counts twice its forward pass, less the part that needs no gradient. The samples are counted all at
    once, here and below, because every step counts them.
    """
    model, teacher = config.model, config.teacher
    keep = [(1 - model.drop_path * i / max(model.layers - 1, 1)) * (1 - model.layer_drop) for i in range(model.layers)]
    teacher_rows = tokens if "instance" in (teacher.block_norm, teacher.mean_norm) else masked
    network = network_class(config.modality)
    first, local, positions, head = network.flops_around_blocks(config, tokens)
    if config.masks is not None:
        whole = tokens + network.prefix
        teacher_pass = positions + _blocks(model, whole, whole, [1.0] * model.layers)
        teacher_pass += first + local if teacher.average == "all" else 0
        seen = whole - masked
        each = positions + _blocks(model, seen, seen, keep) + _decoder(config, tokens, masked)
        return teacher_pass + 3 * (local + config.masks.count * each) + 2 * first
    tokens = tokens + network.prefix
    student_pass = local + positions + _blocks(model, tokens, masked, keep) + masked * head
    teacher_pass = positions + _blocks(model, tokens, teacher_rows, [1.0] * model.layers)
    teacher_pass += first + local if teacher.average == "all" else 0
    return teacher_pass + 3 * student_pass + 2 * first


def _blocks(model: TransformerConfig, tokens: np.ndarray, rows: np.ndarray, keep: list[float]) -> np.ndarray:
    """Return the forward operations of all blocks, each run with its probability in `keep`.

    The last block computes the outputs of `rows` tokens only.
    """
    return sum(keep[:-1]) * _block(model, tokens, tokens) + keep[-1] * _block(model, tokens, rows)


def _decoder(config: ModalityConfig, tokens: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """Return the forward operations of data2vec 2.0's decoder for one mask of each sample, float64 [B]."""
    sizes, width = config.decoder, config.model.width
    assert sizes is not None
    taps = sizes.kernel ** (2 if config.modality == "vision" else 1)
    channels = width + (sizes.layers - 1) * sizes.width
    convolutions = 2 * tokens * taps * channels * sizes.width / sizes.groups
    hidden = sizes.hidden
    project = hidden * (sizes.width + width) if hidden else sizes.width * width
    return convolutions + 2 * masked * project


def _block(model: TransformerConfig, tokens: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the forward operations of a block on `tokens` tokens that computes the outputs of `rows` of them."""
    keys_values = 4 * tokens * model.width**2
    queries_output = 4 * rows * model.width**2
    attention = 4 * rows * tokens * model.width
    return keys_values + queries_output + attention + 4 * rows * model.width * model.ffn
