"""Documents of text files, JSON lines and Parquet, in parts that can be read one by one, whatever the others hold."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal, Protocol

import pyarrow
from pyarrow import parquet

from data_shards.sources.units import LeftOut, read_unchanged

MAX_DOCUMENT = 2**28
"""Bytes of the longest document, 256 MiB: longer ones are collections in the wrong form."""

COMPRESSED = {"gz": "gzip", "zst": "zstd"}
_RATIO = 3.5  # text to compressed text, about


@dataclass(frozen=True)
class Document:
    """A text and where it is from."""

    key: str
    text: str
    label: str | None = None


class Part(Protocol):
    """Some documents of a source."""

    @property
    def size(self) -> int:
        """Bytes of text, about."""

    def facts(self) -> tuple:
        """Everything that its documents depend on."""

    def documents(self, left_out: LeftOut) -> Iterator[Document]:
        """Its documents; adds to `left_out` those that cannot be read."""


@dataclass(frozen=True)
class Fields:
    """Names of the fields or columns."""

    text: str
    label: str
    """"" for none."""


@dataclass(frozen=True)
class Whole:
    """A text file that is one document."""

    key: str
    path: str
    size: int
    modified: int

    def facts(self) -> tuple:
        return (self.key, self.size, self.modified)

    def documents(self, left_out: LeftOut) -> Iterator[Document]:
        try:
            data = read_unchanged(self.path, self.size)
        except OSError as error:
            left_out.add_unreadable(self.path, error)
            return
        if text := decode_text(data, self.path, left_out):
            yield Document(f"{self.key}/0", text)


@dataclass(frozen=True)
class Lines:
    """The documents that begin in bytes [start, stop) of a file: lines, blocks between blank lines, or JSON lines.

    A compressed file is one part: nothing in it can be found without what is before.
    """

    key: str
    path: str
    start: int
    stop: int
    modified: int
    kind: Literal["lines", "paragraphs", "json"]
    fields: Fields | None = None
    """Of `json`."""

    @property
    def size(self) -> int:
        return int((self.stop - self.start) * (_RATIO if _codec(self.path) else 1))

    def belongs_to_next(self, position: int) -> bool:
        """Whether what begins at `position` is the next part's."""
        return position >= self.stop and not _codec(self.path)

    def facts(self) -> tuple:
        return (self.key, self.start, self.stop, self.modified, self.kind, self.fields)

    def documents(self, left_out: LeftOut) -> Iterator[Document]:
        try:
            for position, data in self._blocks():
                key, name = f"{self.key}/{position}", f"{self.path} at byte {position}"
                if (text := decode_text(data, name, left_out)) is None:
                    continue
                document = _json(key, text, self.fields, name, left_out) if self.fields else Document(key, text)
                if document:
                    yield document
        except OSError as error:
            if _codec(self.path) and not isinstance(error, PermissionError):  # an incomplete download
                raise ValueError(f"{self.path}: {error}; get the file again, or take it away") from error
            left_out.add_unreadable(self.path, error)

    def _blocks(self) -> Iterator[tuple[int, bytes]]:
        """Position and bytes of each document."""
        with _open(self.path) as file:
            yield from _paragraphs(file, self) if self.kind == "paragraphs" else _lines(file, self)


@dataclass(frozen=True)
class Rows:
    """The rows of some row groups of a Parquet file."""

    key: str
    path: str
    groups: tuple[int, ...]
    size: int
    modified: int
    fields: Fields

    def facts(self) -> tuple:
        return (self.key, self.groups, self.size, self.modified, self.fields)

    def documents(self, left_out: LeftOut) -> Iterator[Document]:
        try:
            file = parquet.ParquetFile(self.path)
        except OSError as error:
            left_out.add_unreadable(self.path, error)
            return
        for group in self.groups:
            for row, texts in enumerate(self._rows(file, group)):
                name = f"{self.path}, row group {group}, row {row}"
                if document := _document(f"{self.key}/{group}-{row}", texts, self.fields, name, left_out):
                    yield document

    def _rows(self, file: parquet.ParquetFile, group: int) -> Iterator[dict]:
        columns = [name for name in (self.fields.text, self.fields.label) if name]
        try:
            for batch in file.iter_batches(1024, [group], columns):
                yield from batch.to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"{self.path}: row group {group}: {error}; get the file again, or take it away") from error


def decode_text(data: bytes, name: str, left_out: LeftOut) -> str | None:
    """UTF-8 text without white space around it; None, and counted, where it is empty or something else."""
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        left_out.add("not UTF-8", f"{name} ({error.reason} {error.start} bytes into it)")
        return None
    if not text:
        left_out.add("empty", name)
    return text or None


def _codec(path: str) -> str | None:
    return COMPRESSED.get(path.rpartition(".")[2].lower())


def _open(path: str) -> BinaryIO:
    """The file, decompressed where its name says so."""
    if codec := _codec(path):
        return io.BufferedReader(pyarrow.CompressedInputStream(path, codec), 1 << 20)
    return open(path, "rb")


def _lines(file: BinaryIO, part: Lines) -> Iterator[tuple[int, bytes]]:
    """(position, line) of the lines that begin in the part; blank ones are none."""
    for position, line in _positions(file, part):
        if part.belongs_to_next(position):
            return
        if line.strip():
            yield position, line


def _paragraphs(file: BinaryIO, part: Lines) -> Iterator[tuple[int, bytes]]:
    """(position, block) of the blocks whose preceding blank line, or the file, begins in the part."""
    block, begin, ours = b"", 0, part.start == 0
    for position, line in _positions(file, part):
        if line.strip():
            begin = begin if block else position
            block += line if ours else b""
            continue
        if block:
            yield begin, block
        if part.belongs_to_next(position):
            return
        block, ours = b"", True
    if block:
        yield begin, block


def _positions(file: BinaryIO, part: Lines) -> Iterator[tuple[int, bytes]]:
    """(position, line) from the first line on that begins in the part; ValueError at a line that is no document."""
    position = part.start
    if position:
        file.seek(position - 1)
        position += len(file.readline()) - 1
    while line := file.readline(MAX_DOCUMENT):
        if len(line) == MAX_DOCUMENT:
            raise ValueError(f"{part.path}: the line at byte {position} is longer than {MAX_DOCUMENT >> 20} MiB")
        yield position, line
        position += len(line)


def _json(key: str, line: str, fields: Fields, name: str, left_out: LeftOut) -> Document | None:
    try:
        content = json.loads(line)
    except ValueError as error:
        left_out.add("not JSON", f"{name} ({error})")
        return None
    return _document(key, content, fields, name, left_out)


def _document(key: str, content: object, fields: Fields, name: str, left_out: LeftOut) -> Document | None:
    """The document of an object or a row; None, and counted, where its fields are not there or its text is empty."""
    text = content.get(fields.text) if isinstance(content, dict) else None
    label = content.get(fields.label) if isinstance(content, dict) and fields.label else None
    if not isinstance(text, str):
        left_out.add(f"no text in '{fields.text}'", name)
    elif not text.strip():
        left_out.add("empty", name)
    elif fields.label and label is None:
        left_out.add(f"no class in '{fields.label}'", name)
    else:
        return Document(key, text.strip(), None if label is None else str(label))
    return None


def check_columns(path: str, fields: Fields) -> None:
    """ValueError where a Parquet file is none, or lacks a column that is asked for; OSError where it is unreadable."""
    try:
        names = parquet.read_schema(path).names
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a Parquet file that can be read: {error}") from None
    for key, name in (("text_field", fields.text), ("label_field", fields.label)):
        if name and name not in names:
            raise ValueError(f"{path} has no column {name!r} but {', '.join(names)}; set {key}=COLUMN")


def labels_of(parts: Iterable[Part]) -> list[str]:
    """All classes of the documents, numbers by their value, else by the alphabet."""
    found = {document.label for part in parts for document in part.documents(LeftOut()) if document.label is not None}
    if all(label.lstrip("-").isdecimal() for label in found):
        return sorted(found, key=int)
    return sorted(found)
