"""Constants of the published front ends: the speech feature encoder, and the special tokens of text."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

Count = TypeVar("Count", int, np.ndarray)

SAMPLE_RATE = 16_000
"""Samples per second of all speech, mono."""
CONV_KERNELS = (10, 3, 3, 3, 3, 2, 2)
CONV_STRIDES = (5, 2, 2, 2, 2, 2, 2)
"""Kernels and strides of the speech feature encoder's convolutions (wav2vec 2.0, arXiv 2006.11477, section 4.2)."""
RECEPTIVE_FIELD, FRAME_STRIDE = 400, 320
"""Samples that a frame of the feature encoder covers, and samples from one frame to the next: 25 ms and 20 ms."""

BOS, PAD, EOS, UNK = range(4)
"""Ids of <s>, <pad>, </s> and <unk> in every vocabulary (RoBERTa's); <mask> is the last id, `vocab_size - 1`."""
FIRST_POSITION = PAD + 1
"""Row of the first token's position. RoBERTa's positions begin behind the row of <pad>, which is zero."""


def frames(samples: int) -> int:
    """Number of frames that the feature encoder makes of `samples` samples; 0 below the receptive field."""
    return max(0, (samples - RECEPTIVE_FIELD) // FRAME_STRIDE + 1)


def samples_of(frames: Count) -> Count:
    """Smallest number of samples that gives `frames` frames."""
    return RECEPTIVE_FIELD + (frames - 1) * FRAME_STRIDE
