"""The cost of loading a micro-batch, and sums of costs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Cost(NamedTuple):
    """The cost of loading some samples. Seconds are those of the process that loaded them."""

    samples: int = 0
    read_s: float = 0.0
    """Reading, checksum, and finding the members."""
    decode_s: float = 0.0
    """Decoding and augmenting."""
    batch_s: float = 0.0
    """Masking and stacking."""
    read_bytes: int = 0
    cache_hits: int = 0
    """Samples of remote shards whose chunk was on this node."""
    cache_misses: int = 0
    """Samples of remote shards whose chunk had to be fetched."""


def total(costs: Iterable[Cost]) -> Cost:
    """Return the sum of costs."""
    columns = list(zip(*costs, strict=True))
    return Cost(*map(sum, columns))
