"""Estimate of a rank's memory in training, from sizes alone: states as in docs/memory.md, and activations.

Activations are the tensors that a micro-batch's forward pass keeps for its backward pass, by counting them in
models/layers: H width, F feed-forward width, N tokens of the longest sample. A test compares with the tensors kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from configs.checks.run import Precision
from configs.modality_config import ModalityConfig
from configs.schema_running import DeepSpeedConfig
from configs.signals import CONV_STRIDES, samples_of

GIB = 2**30
_FRONT_COPIES = 3
"""Tensors that a convolutional layer keeps: its input, and those of LayerNorm and GELU."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank, estimated."""

    states: int
    """Weights, their copy for the teacher, optimizer, teacher and gradients on the device that trains."""
    activations: int
    """Tensors of the largest micro-batch."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.states + self.activations


def state_bytes(parameters: int, averaged: int, world: int, precision: Precision, zero: DeepSpeedConfig) -> int:
    """Bytes that the training device of a rank holds between steps: the table of docs/memory.md.

    averaged: number of the parameters that the teacher averages. What is offloaded is not on the device.
    """
    width, share = (4 if precision == "fp32" else 2), (1 if zero.stage == 0 else world)
    whole = share if zero.stage == 3 else 1
    weights = width * (parameters + averaged) // whole
    masters = 0 if precision == "fp32" and zero.stage in (0, 3) else 4  # else the weights are the masters
    optimizer = ((masters + 8) * parameters + 4 * averaged) // share
    gradients = (width if zero.stage == 0 else 4) * parameters // (share if zero.stage > 1 else 1)
    return weights + gradients + (0 if zero.offload_optimizer else optimizer)


def activation_bytes(config: ModalityConfig, precision: Precision, cuda: bool) -> int:
    """Bytes that the largest micro-batch of a modality keeps for its backward pass.

    Stochastic depth and layer drop, which save some, are not counted. cuda: fused attention keeps no probabilities.
    """
    width, samples = 4 if precision == "fp32" else 2, _largest(config)
    tokens = config.longest or config.vision.tokens
    if config.masks is None:
        stack = _stack_bytes(config, tokens + (config.longest is None), width, cuda)
        return samples * (stack + _front_bytes(config, tokens, width))
    seen = tokens - config.hidden_tokens(tokens) + (config.longest is None)
    of_mask = _stack_bytes(config, seen, width, cuda) + _decoder_bytes(config, tokens, width)
    if config.modality == "vision":
        of_mask += config.model.heads * seen**2 * width  # the bias between the visible patches
    elif config.modality == "speech":
        of_mask += _position_bytes(config, tokens, width)
    return samples * (config.masks.count * of_mask + _front_bytes(config, tokens, width))


def _stack_bytes(config: ModalityConfig, tokens: int, width: int, cuda: bool) -> int:
    """Bytes that all blocks keep for a sequence of `tokens`."""
    model = config.model
    block = tokens * ((8 if model.norm == "pre" else 6) * model.width + 2 * model.ffn) * width
    block += tokens * 2 * model.width * 4  # the residual stream, float32 in front of both norms
    block += tokens * 2 * model.width if model.dropout else 0
    if not cuda:
        block += model.heads * tokens**2 * (width + (4 if model.attention_dropout else 0))
    if model.activation_checkpointing:
        return block + 4 * tokens * model.width * model.layers
    return block * model.layers


def _decoder_bytes(config: ModalityConfig, tokens: int, width: int) -> int:
    """Bytes that data2vec 2.0's decoder keeps for one mask of a sample."""
    sizes = config.decoder
    assert sizes is not None
    convolutions = _FRONT_COPIES * sizes.layers * tokens * sizes.width
    return (convolutions + tokens * (config.model.width + sizes.width + 2 * sizes.hidden)) * width


def _largest(config: ModalityConfig) -> int:
    """Samples of the longest length in a micro-batch."""
    batch = config.batch
    if config.longest is None or not batch.micro_tokens:
        return batch.micro
    return max(1, min(batch.micro, batch.micro_tokens // config.longest))


def _front_bytes(config: ModalityConfig, tokens: int, width: int) -> int:
    """Bytes that the layers in front of the blocks keep of one sample."""
    if config.modality == "vision":
        return tokens * 3 * config.vision.patch_size**2 * width
    if config.modality == "text":
        return 0
    speech, length, kept = config.speech, samples_of(tokens), 0
    for stride in CONV_STRIDES:
        length //= stride
        kept += _FRONT_COPIES * length * speech.conv_width
    if config.model.activation_checkpointing:
        kept //= _FRONT_COPIES
    return kept * width + (0 if config.masks else _position_bytes(config, tokens, width))


def _position_bytes(config: ModalityConfig, tokens: int, width: int) -> int:
    """Bytes that the positional convolutions of speech keep of one sequence."""
    return _FRONT_COPIES * config.speech.position_layers * tokens * config.model.width * width


def number(value: float) -> str:
    """Return a count or a share with three digits, or with all digits before the point."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def size(count: int) -> str:
    """Return a number of bytes with its unit."""
    return f"{number(count / GIB)} GiB" if count >= GIB / 10 else f"{number(count / 2**20)} MiB"
