"""What is asked of the workers of a loader: everything that decides a micro-batch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

TRIM_GROUP = 16
"""Clips whose masks are trimmed to one count: about what the published code has on a GPU, where it trims."""


class Neighbours(NamedTuple):
    """The clips of about the same length that a micro-batch's clips are trimmed with, in whole groups."""

    samples: np.ndarray
    """int64 [n], group after group of TRIM_GROUP; the last may be smaller."""
    epochs: np.ndarray
    """int64 [n], of each of them."""
    frames: np.ndarray
    """int64 [n], as the index has them; those of fewer than 2 do not count."""
    group: np.ndarray
    """int64 [B], which of the groups each clip of the micro-batch is in."""


class Request(NamedTuple):
    """Everything that decides a micro-batch; each array is int64 [B]."""

    epochs: np.ndarray
    lanes: np.ndarray
    positions: np.ndarray
    samples: np.ndarray
    last: bool
    """Whether it is the last one of its step."""
    limits: np.ndarray
    """Tokens to which each sample, or what replaces it, is cropped; 0 for images."""
    neighbours: Neighbours | None = None
    """Speech: the clips with whose masks these are trimmed; None: they are not."""
