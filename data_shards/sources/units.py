"""Units of source data that become samples, and the splits that consist of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from configs.schema_modalities import Modality
from data_shards.shards.tar import BLOCK
from data_shards.text.tokenizer import Tokenizer

_NAMES_SHOWN = 5
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")

UNREADABLE = "unreadable"
"""Beginning of the reasons that may no longer hold when the same command is given again."""

_KEPT = "kept, but "
"""Beginning of the reasons for naming items that did become samples."""


class LeftOut:
    """Names of the source items that became no sample, or one that the user should know about, by reason."""

    def __init__(self, reasons: dict[str, list[str]] | None = None) -> None:
        self.reasons = reasons or {}

    def add(self, reason: str, name: str) -> None:
        """Add a name under `reason`."""
        self.reasons.setdefault(reason, []).append(name)

    def add_unreadable(self, name: str, error: OSError) -> None:
        """Add a name that the operating system cannot read."""
        self.add(f"{UNREADABLE}: {error.strerror or error}", name)

    def add_kept(self, reason: str, name: str) -> None:
        """Add a name that became a sample, with what the user should know about it."""
        self.add(_KEPT + reason, name)

    def merge(self, other: LeftOut) -> None:
        """Add all names of `other`."""
        for reason, names in other.reasons.items():
            self.reasons.setdefault(reason, []).extend(names)

    @property
    def worth_retrying(self) -> bool:
        """True if something was left out that may be readable at the next build."""
        return any(reason.startswith(UNREADABLE) for reason in self.reasons)

    def notes(self, listed: Path | None = None) -> list[str]:
        """Line per reason, with the first names. listed: path of the file with all names."""
        lines = []
        for reason, names in sorted(self.reasons.items()):
            more = len(names) > _NAMES_SHOWN
            rest = ", ..." + (f" (all in {listed})" if listed else "") if more else ""
            shown = ", ".join(map(_printable, names[:_NAMES_SHOWN]))
            verb = "kept" if reason.startswith(_KEPT) else "left out"
            lines.append(f"{verb} {len(names)} ({_printable(reason.removeprefix(_KEPT))}): {shown}{rest}")
        return lines

    def to_tsv(self) -> bytes:
        """All names as lines `reason<TAB>name`. Control characters in names become `\\t`, `\\n`, `\\r` and `\\x1b`."""
        rows = [(reason, name) for reason, names in sorted(self.reasons.items()) for name in names]
        lines = [f"{reason.translate(_VISIBLE)}\t{name.translate(_VISIBLE)}\n" for reason, name in rows]
        return "".join(lines).encode("utf-8", "surrogateescape")


class Unusable(Exception):
    """Reason why a document is left out, without its place; and details, which differ from document to document."""

    def __init__(self, reason: str, details: object = "") -> None:
        super().__init__(reason)
        self.reason, self.details = reason, details

    def add_to(self, left_out: LeftOut, place: str) -> None:
        """Add the place of the document to `left_out`."""
        left_out.add(self.reason, f"{place} ({self.details})" if self.details else place)


_CONTROLS = (*range(32), *range(127, 160), 0x2028, 0x2029)  # a name must not move the cursor
_VISIBLE = {i: f"\\x{i:02x}" for i in _CONTROLS} | str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _printable(name: str) -> str:
    """Name of a file on one line, printable whatever its bytes are."""
    return name.translate(_VISIBLE).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class Unit(Protocol):
    """Source data that becomes samples of one shard, independently of all other units."""

    @property
    def size(self) -> int:
        """Approximate bytes in the tar."""

    def facts(self) -> tuple:
        """Everything that the samples' bytes depend on. It is hashed to see whether a shard is finished."""

    def samples(self, left_out: LeftOut) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Yield (key, members) per sample. Adds items that cannot be used to `left_out`.

        Raises ValueError if the source changed during the build.
        """


@dataclass
class Split:
    """Content of the shards NAME-000000.tar, NAME-000001.tar ...: units, in the order in which they are written."""

    name: str
    modality: Modality
    units: list[Unit]
    classes: list[str]
    shard_units: int = 10**9
    """Most units per shard."""
    tokenizer: Tokenizer | None = None
    """Text: the tokenizer, which is saved beside the shards."""
    notes: list[str] = field(default_factory=list)
    """Lines for the user about the source."""
    left_out: LeftOut = field(default_factory=LeftOut)
    """Items that the source left out before the build."""
    numbered: bool = False
    """Samples may have the numbers of classes that have no names."""


def read_unchanged(path: str, size: int) -> bytes:
    """Read a file. Raises ValueError if its size is not the listed one, OSError if it is unreadable."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path} went away during the build; build again") from None
    check_size(path, size, len(data))
    return data


def check_size(path: str, listed: int, read: int) -> None:
    """Raise ValueError if a file is not as long as it was listed."""
    if read != listed:
        raise ValueError(f"{path} changed from {listed} to {read} bytes during the build; build again")


def sorted_classes(found: Iterable[str]) -> list[str]:
    """Classes, each once, sorted by value if all are whole numbers, else by the alphabet."""
    names = set(found)
    if all(_WHOLE_NUMBER.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def label_size(label: int | None) -> int:
    """Bytes that the member `cls` takes in a tar; 0 without a label."""
    return 0 if label is None else 2 * BLOCK


def label_member(label: int | None) -> dict[str, bytes]:
    """The member `cls` with the number of the class; no member without a label."""
    return {} if label is None else {"cls": str(label).encode()}
