"""Random choices of positions and the spans that begin there, of many samples at once."""

from __future__ import annotations

import numpy as np


def choose_positions(draws: np.ndarray, count: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """`count` [B] positions of the `allowed`, or all where there are fewer, uniformly: bool [B, T]; draws [B, T]."""
    draws = np.where(allowed, draws, 1.0)
    last = np.clip(count, 1, np.maximum(allowed.sum(1), 1)) - 1
    return allowed & (draws <= np.take_along_axis(np.sort(draws, axis=1), last[:, None], axis=1))


def cover_spans(starts: np.ndarray, length: np.ndarray) -> np.ndarray:
    """What spans of `length` [B] positions cover that begin at `starts`; both bool [B, T]."""
    change = starts.astype(np.int32)
    rows, columns = np.nonzero(starts)
    ends = columns + length[rows]
    inside = ends < starts.shape[1]
    change[rows[inside], ends[inside]] -= 1
    return np.cumsum(change, axis=1) > 0
