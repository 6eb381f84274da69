"""Constants of the published front ends: speech frames, the feature encoder's convolutions, special tokens."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

RECEPTIVE_FIELD, FRAME_STRIDE = 400, 320
"""Speech: samples of 16 kHz that a frame covers, and from one frame to the next."""


def frames(samples: int) -> int:
    """Frames that the speech feature encoder makes of so many samples; 0 below the receptive field."""
    return max(0, (samples - RECEPTIVE_FIELD) // FRAME_STRIDE + 1)


BOS, PAD, EOS, UNK = range(4)
"""Ids of <s>, <pad>, </s> and <unk> in every vocabulary (RoBERTa's); <mask> is the last id, `vocab_size - 1`."""


CONV_KERNELS = (10, 3, 3, 3, 3, 2, 2)


CONV_STRIDES = (5, 2, 2, 2, 2, 2, 2)
"""The speech feature encoder's convolutions, which make one frame of RECEPTIVE_FIELD samples, FRAME_STRIDE apart."""


Count = TypeVar("Count", int, np.ndarray)


def samples_of(frames: Count) -> Count:
    """The fewest samples that give so many frames."""
    return RECEPTIVE_FIELD + (frames - 1) * FRAME_STRIDE


SAMPLE_RATE = 16_000
