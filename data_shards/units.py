"""What is to be written: units of source data that become samples, and the splits that they make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from configs.schema import Modality
from data_shards.tar import BLOCK
from data_shards.tokenizer import Tokenizer

_NAMES_SHOWN = 5


class LeftOut:
    """What became no sample: a count and the first names, by reason."""

    def __init__(self) -> None:
        self.reasons: dict[str, tuple[int, list[str]]] = {}

    def add(self, reason: str, name: str) -> None:
        """One more, for `reason`."""
        self._add(reason, 1, [name])

    def _add(self, reason: str, count: int, names: Iterable[str]) -> None:
        before, shown = self.reasons.get(reason, (0, []))
        self.reasons[reason] = (before + count, [*shown, *names][:_NAMES_SHOWN])

    def merge(self, other: LeftOut) -> None:
        """Count `other`'s too."""
        for reason, (count, names) in other.reasons.items():
            self._add(reason, count, names)

    def notes(self) -> list[str]:
        """A line per reason."""
        return [
            f"left out {count} ({reason}): {', '.join(names)}{', ...' if count > len(names) else ''}"
            for reason, (count, names) in sorted(self.reasons.items())
        ]


class Unit(Protocol):
    """Source data that becomes samples of one shard, whatever the others do."""

    @property
    def size(self) -> int:
        """Bytes in the tar, about."""

    def facts(self) -> tuple:
        """Everything that the samples' bytes depend on."""

    def samples(self, left_out: LeftOut) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Keys and members. Adds to `left_out` what cannot be used; ValueError where the source changed meanwhile."""


@dataclass
class Split:
    """What becomes the shards NAME-000000.tar and so on: its units in the order in which they are written."""

    name: str
    modality: Modality
    units: list[Unit]
    classes: list[str]
    shard_units: int = 10**9
    """Most units of a shard."""
    tokenizer: Tokenizer | None = None
    """Text: what makes its tokens; to be saved beside the shards."""
    notes: list[str] = field(default_factory=list)
    """What to tell of the source."""
    left_out: LeftOut = field(default_factory=LeftOut)
    """What the source left out itself."""


def read_unchanged(path: str, size: int) -> bytes:
    """The file's bytes; ValueError where it is not of the size that it was listed with."""
    data = Path(path).read_bytes()
    if len(data) != size:
        raise ValueError(f"{path} changed from {size} to {len(data)} bytes during the build; build again")
    return data


def label_size(label: int | None) -> int:
    """Bytes of the member `cls` in a tar."""
    return 0 if label is None else 2 * BLOCK


def label_member(label: int | None) -> dict[str, bytes]:
    """The member `cls`, if there is a class."""
    return {} if label is None else {"cls": str(label).encode()}
