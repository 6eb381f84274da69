"""Parameters, and floating-point operations of a training sample: for MFU and the estimate.

Counted are the matrix products that the objective needs, a multiply-add as two operations: the expectation over
stochastic depth, the last blocks for the masked patches alone; no recomputation by activation checkpointing.
"""

from __future__ import annotations

from configs.schema import ModelConfig, PretrainConfig


def parameters(config: PretrainConfig) -> int:
    """Parameters of the student, regression head and mask vector included; the teacher has as many."""
    model, vision = config.model, config.vision
    width = model.width
    attention = 3 * width * width + 2 * width + width * width + width
    feed_forward = 2 * model.ffn * width + model.ffn + width
    block = attention + feed_forward + 4 * width + (2 * width if model.layer_scale > 0 else 0)
    embedding = 3 * vision.patch_size**2 * width + width + 2 * width
    positions = ((2 * vision.grid - 1) ** 2 + 3) * model.heads
    return model.layers * block + embedding + positions + 2 * width + width * width + width


def flops_per_sample(config: PretrainConfig) -> float:
    """One sample's training step: student forward and backward, teacher forward."""
    model, vision = config.model, config.vision
    rows = min(vision.mask.patches, vision.tokens)
    embedding = 2 * vision.tokens * 3 * vision.patch_size**2 * model.width
    head = 2 * rows * model.width**2
    teacher = embedding + sum(_blocks(config, [1.0] * model.layers))
    keep = [1 - model.drop_path * i / max(model.layers - 1, 1) for i in range(model.layers)]
    student = sum(_blocks(config, keep)) + head
    return teacher + 3 * student + 2 * embedding  # images need no gradient


def _blocks(config: PretrainConfig, keep: list[float]) -> list[float]:
    """Forward operations of each block; the last one answers the masked patches alone."""
    tokens = config.vision.tokens + 1
    rows = [tokens] * (len(keep) - 1) + [min(config.vision.mask.patches, config.vision.tokens)]
    return [k * _block(config.model, tokens, r) for k, r in zip(keep, rows, strict=True)]


def _block(model: ModelConfig, tokens: int, rows: int) -> float:
    """Forward operations of a block on `tokens` tokens that answers `rows` of them."""
    keys_values = 4 * tokens * model.width**2
    queries_output = 4 * rows * model.width**2
    attention = 4 * rows * tokens * model.width
    return keys_values + queries_output + attention + 4 * rows * model.width * model.ffn
