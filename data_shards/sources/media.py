"""Encoded images and recordings of any source -> samples, or the reason why they cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from data_shards.shards.storage import Unreachable
from data_shards.sources.folders import SourceFile, extension
from data_shards.sources.stores import DamagedMember, Store
from data_shards.sources.units import LeftOut, check_size, label_member, read_unchanged

MediaModality = Literal["vision", "speech"]
"""Modalities whose samples are encoded files."""
Members = dict[str, bytes]


@dataclass(frozen=True)
class Encoded:
    """The bytes of an image or a recording, and what its source says of them."""

    key: str
    place: str
    """Place in the source, for messages."""
    extension: str
    """Extension of the name that the source gives, in lower case; "" if it gives none."""
    data: bytes
    label: int | None = None
    text: str | None = None
    """Transcript or caption."""

    def others(self) -> Members:
        """The members beside the image or recording: `cls` and `txt`."""
        return label_member(self.label) | ({} if self.text is None else {"txt": self.text.encode()})


class MediaKind(Protocol):
    """Checks and stored form of images, or of recordings."""

    @property
    def modality(self) -> MediaModality:
        """Modality of the samples."""

    @property
    def extensions(self) -> tuple[str, ...]:
        """Extensions of the files that are read."""

    @property
    def noun(self) -> str:
        """Name of one file's content, for messages."""

    def facts(self, suffix: str, size: int, modified: int, label: int | None, text: str | None) -> tuple:
        """Everything that a stored file depends on, but its key. suffix: of its name, with the dot."""

    def stored_size(self, size: int, extension: str, label: int | None) -> int:
        """Approximate bytes in the tar of a file of `size` bytes, its label included."""

    def samples(self, encoded: Encoded, left_out: LeftOut) -> Iterator[tuple[str, Members]]:
        """Yield (key, members) per sample; none if it cannot be used, with the reason in `left_out`."""


@dataclass(frozen=True)
class MediaFile:
    """A file that holds one image or recording."""

    key: str
    path: str
    file_size: int
    modified: int
    kind: MediaKind
    label: int | None = None
    text: str | None = None
    store: Store | None = None
    stored: str = ""
    """Name in the store."""

    @property
    def size(self) -> int:
        return self.kind.stored_size(self.file_size, extension(self.path), self.label)

    def facts(self) -> tuple:
        what = (Path(self.path).suffix, self.file_size, self.modified, self.label, self.text)
        return (self.key, *self.kind.facts(*what))

    def samples(self, left_out: LeftOut) -> Iterator[tuple[str, Members]]:
        try:
            data = self._read()
        except Unreachable:  # an outage of the store: the same command goes on
            raise
        except OSError as error:
            left_out.add_unreadable(self.path, error)
            return
        except DamagedMember as error:
            left_out.add("damaged in the archive", f"{self.path} ({error})")
            return
        encoded = Encoded(self.key, self.path, extension(self.path), data, self.label, self.text)
        yield from self.kind.samples(encoded, left_out)

    def _read(self) -> bytes:
        if self.store is None:
            return read_unchanged(self.path, self.file_size)
        data = self.store.read(self.stored)
        check_size(self.path, self.file_size, len(data))
        return data


def media_of(
    key: str, file: SourceFile, kind: MediaKind, label: int | None = None, text: str | None = None
) -> MediaFile:
    """Return the unit of a source file."""
    return MediaFile(key, file.path, file.size, file.modified, kind, label, text, file.store, file.stored)
