"""A sample that cannot be used, why, and where it lies."""

from __future__ import annotations

from typing import Literal, NamedTuple

BadKind = Literal["unreadable", "checksum", "format", "member", "decode", "too_large", "too_long", "too_short"]
"""unreadable: the file; checksum: bytes that are not those that were indexed; format: no tar members; member: none of
this modality; decode: its content; too_large, too_long, too_short: beyond a limit of the configuration."""


class BadSample(Exception):
    """A sample that cannot be used; the text says why."""

    def __init__(self, kind: BadKind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class Report(NamedTuple):
    """One bad sample, for the log."""

    shard: str
    sample: str
    """Its key as far as it can be read, and its row."""
    kind: BadKind
    reason: str
