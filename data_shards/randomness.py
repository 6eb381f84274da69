"""Uniform numbers as a pure function of (seed, epoch, sample, stream): no generator, no state.

SplitMix64's finaliser (Steele, Lea, Flood 2014) is applied to each part of the key in turn and then to a counter. The
parts are mixed, not summed, so that neighbouring seeds, epochs and samples share nothing.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_TO_UNIT = 2.0**-53

Epochs = int | np.ndarray
"""One epoch for all samples, or one epoch per sample, int64 [n]."""


class Stream(IntEnum):
    """Purpose of random numbers. The values are part of a run's order and never change."""

    CROP = 0
    JITTER = 1
    MASK = 2
    TRIM = 3
    REPLACE = 4
    NOISE = 5


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def keys(seed: int, epochs: Epochs, samples: np.ndarray, stream: Stream, masks: int = 0) -> np.ndarray:
    """Return a key for each sample, uint64 [n], or with `masks` for each of a sample's masks, [n, masks]."""
    key = np.zeros(len(samples), np.uint64)
    for part in (seed, epochs, samples, stream):
        key = _mix((key ^ np.asarray(part).astype(np.uint64)) + _GOLDEN)
    return _mix((key[:, None] ^ np.arange(masks, dtype=np.uint64)) + _GOLDEN) if masks else key


def drawn(keys: np.ndarray, count: int, first: int = 0) -> np.ndarray:
    """Return numbers `first .. first + count` (excluded) of each key [n], 64 random bits each: uint64 [n, count]."""
    counter = np.arange(first + 1, first + count + 1, dtype=np.uint64) * _GOLDEN
    return _mix(keys[:, None] + counter)


def uniforms(seed: int, epochs: Epochs, samples: np.ndarray, stream: Stream, count: int, first: int = 0) -> np.ndarray:
    """Numbers `first .. first + count` (excluded) of each sample's stream: float64 [len(samples), count] in [0, 1)."""
    return in_unit(drawn(keys(seed, epochs, samples, stream), count, first))


def in_unit(bits: np.ndarray) -> np.ndarray:
    """Return 64 random bits each as a number in [0, 1), float64 of the same shape."""
    return (bits >> np.uint64(11)) * _TO_UNIT
