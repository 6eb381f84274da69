"""Random positions, and spans of positions, in a batch of B samples of T positions. The masks are built from them."""

from __future__ import annotations

import numpy as np


def choose_positions(draws: np.ndarray, count: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Choose `count` int64 [B] positions per sample, uniformly among the `allowed` bool [B, T]: bool [B, T].

    A sample with fewer allowed positions gets all of them. draws: uniform numbers [B, T]; the smallest are chosen.
    """
    draws = np.where(allowed, draws, 1.0)
    last = np.clip(count, 1, np.maximum(allowed.sum(1), 1)) - 1
    return allowed & (draws <= np.take_along_axis(np.sort(draws, axis=1), last[:, None], axis=1))


def cover_spans(starts: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Mark the positions covered by spans of `length` int64 [B] that begin at `starts` bool [B, T]: bool [B, T].

    Spans may overlap, and end at T.
    """
    change = starts.astype(np.int32)
    rows, columns = np.nonzero(starts)
    ends = columns + length[rows]
    inside = ends < starts.shape[1]
    change[rows[inside], ends[inside]] -= 1
    return np.cumsum(change, axis=1) > 0
