"""Requests to a loader's workers: everything that decides a micro-batch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

TRIM_GROUP = 16
"""Number of clips whose masks are trimmed to one count. The published code trims per GPU, which has about as many."""


class Neighbours(NamedTuple):
    """Whole groups of clips of about one length, whose masks are trimmed together with a micro-batch's."""

    samples: np.ndarray
    """int64 [n], group after group of TRIM_GROUP; the last may be smaller."""
    epochs: np.ndarray
    """int64 [n], the epoch of each sample."""
    frames: np.ndarray
    """int64 [n], from the index. Clips of fewer than 2 frames do not count."""
    group: np.ndarray
    """int64 [B], number of the group that each clip of the micro-batch belongs to."""


class Request(NamedTuple):
    """Everything that decides a micro-batch; each array is int64 [B]."""

    epochs: np.ndarray
    lanes: np.ndarray
    positions: np.ndarray
    samples: np.ndarray
    last: bool
    """True for the last micro-batch of its step."""
    limits: np.ndarray
    """Tokens to which each sample, or its replacement, is cropped; 0 for images."""
    neighbours: Neighbours | None = None
    """Speech: the clips whose masks are trimmed together with these clips'. None: masks are not trimmed."""
