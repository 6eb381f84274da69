"""What is to be written: units of source data that become samples, and the splits that they make."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from configs.schema_modalities import Modality
from data_shards.shards.tar import BLOCK
from data_shards.text.tokenizer import Tokenizer

_NAMES_SHOWN = 5


UNREADABLE = "unreadable"
"""How the reasons begin that may be gone when the same command is given again."""


class LeftOut:
    """What became no sample: names by reason."""

    def __init__(self, reasons: dict[str, list[str]] | None = None) -> None:
        self.reasons = reasons or {}

    def add(self, reason: str, name: str) -> None:
        """One more, for `reason`."""
        self.reasons.setdefault(reason, []).append(name)

    def add_unreadable(self, name: str, error: OSError) -> None:
        """One more, which the system does not let us read."""
        self.add(f"{UNREADABLE}: {error.strerror or error}", name)

    def merge(self, other: LeftOut) -> None:
        """Add `other`'s too."""
        for reason, names in other.reasons.items():
            self.reasons.setdefault(reason, []).extend(names)

    @property
    def worth_retrying(self) -> bool:
        """Whether anything was left out that may be readable another time."""
        return any(reason.startswith(UNREADABLE) for reason in self.reasons)

    def notes(self, listed: Path | None = None) -> list[str]:
        """A line per reason, with the first names; `listed`: the file with all of them."""
        lines = []
        for reason, names in sorted(self.reasons.items()):
            more = len(names) > _NAMES_SHOWN
            rest = ", ..." + (f" (all in {listed})" if listed else "") if more else ""
            shown = ", ".join(map(_printable, names[:_NAMES_SHOWN]))
            lines.append(f"left out {len(names)} ({_printable(reason)}): {shown}{rest}")
        return lines

    def to_tsv(self) -> bytes:
        """All of it, a line `reason<TAB>name` each; tabs and ends of lines in names become `\\t`, `\\n` and `\\r`."""
        rows = [(reason, name) for reason, names in sorted(self.reasons.items()) for name in names]
        lines = [f"{reason.translate(_ESCAPES)}\t{name.translate(_ESCAPES)}\n" for reason, name in rows]
        return "".join(lines).encode("utf-8", "surrogateescape")


_ESCAPES = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _printable(name: str) -> str:
    """A file's name on one line, whatever its bytes are."""
    return name.translate(_ESCAPES).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


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
    """The file's bytes; ValueError where it is not of the size that it was listed with, OSError where unreadable."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path} went away during the build; build again") from None
    if len(data) != size:
        raise ValueError(f"{path} changed from {size} to {len(data)} bytes during the build; build again")
    return data


def label_size(label: int | None) -> int:
    """Bytes of the member `cls` in a tar."""
    return 0 if label is None else 2 * BLOCK


def label_member(label: int | None) -> dict[str, bytes]:
    """The member `cls`, if there is a class."""
    return {} if label is None else {"cls": str(label).encode()}
