"""Samples that cannot be used: the exception, and the entry for the log."""

from __future__ import annotations

from typing import Literal, NamedTuple

from data_shards.shards.tar import Data, Members

BadKind = Literal["unreadable", "checksum", "format", "member", "decode", "too_large", "too_long", "too_short"]
"""Reason class of a bad sample.

unreadable: its shard in the store ends before it; checksum: the bytes differ from the indexed ones; format: no tar
members; member: no member of this modality; decode: the content cannot be decoded; too_large, too_long, too_short:
beyond a limit of the configuration."""


class BadSample(Exception):
    """A sample cannot be used; the text says why."""

    def __init__(self, kind: BadKind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class Report(NamedTuple):
    """One bad sample, for the log."""

    shard: str
    sample: str
    """The sample's key, as far as it can be read, and its row in the shard."""
    kind: BadKind
    reason: str

    def __str__(self) -> str:
        return f"{self.shard}, {self.sample}: {self.reason}"


def find_member(members: Members, extensions: tuple[str, ...], noun: str) -> Data:
    """Return the first member that has one of the extensions. Raises BadSample that names `noun` if there is none."""
    for extension in extensions:
        if extension in members:
            return members[extension]
    raise BadSample("member", f"no {noun} among its members: {', '.join(sorted(members))}")
