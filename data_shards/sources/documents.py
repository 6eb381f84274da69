"""Documents of text files, JSON lines and Parquet, in parts that can be read independently of each other."""

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
"""Limit of a document's size in bytes, 256 MiB: longer documents are collections in the wrong form."""

COMPRESSED = {"gz": "gzip", "zst": "zstd"}
_RATIO = 3.5  # approximate ratio of text to compressed text


@dataclass(frozen=True)
class Document:
    """A text, its key (from its place in the source) and its class."""

    key: str
    text: str
    label: str | None = None


class Part(Protocol):
    """Some documents of a source.

    The class names of its implementations are part of the hash of a shard's plan: see `texts.Sequences.facts`.
    """

    @property
    def size(self) -> int:
        """Approximate bytes of text."""

    def facts(self) -> tuple:
        """Everything that the documents depend on. It is hashed to see whether a shard is finished."""

    def documents(self, left_out: LeftOut) -> Iterator[Document]:
        """Yield the documents. Adds unreadable documents to `left_out`."""


@dataclass(frozen=True)
class Fields:
    """Names of the fields of JSON, or of the columns of Parquet."""

    text: str
    label: str
    """"" without classes."""


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
    """Documents that begin in bytes [start, stop) of a file: lines, blocks between blank lines, or JSON lines.

    A compressed file is one part, because it can only be read from its start.
    """

    key: str
    path: str
    start: int
    stop: int
    modified: int
    kind: Literal["lines", "paragraphs", "json"]
    fields: Fields | None = None
    """Fields of JSON lines; None for other kinds."""

    @property
    def size(self) -> int:
        return int((self.stop - self.start) * (_RATIO if _codec(self.path) else 1))

    def belongs_to_next(self, position: int) -> bool:
        """True if a document that begins at `position` belongs to the next part."""
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
        """Yield (position, bytes) of each document."""
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
        """Yield the rows of a row group. Raises ValueError if it is damaged."""
        columns = [name for name in (self.fields.text, self.fields.label) if name]
        try:
            for batch in file.iter_batches(1024, [group], columns):
                yield from batch.to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"{self.path}: row group {group}: {error}; get the file again, or take it away") from error


def decode_text(data: bytes, name: str, left_out: LeftOut) -> str | None:
    """Text of UTF-8 bytes, without white space around it. Empty and other bytes: None, and added to `left_out`."""
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        left_out.add("not UTF-8", f"{name} ({error.reason} {error.start} bytes into it)")
        return None
    if not text:
        left_out.add("empty", name)
    return text or None


def _codec(path: str) -> str | None:
    """Name of the compression according to the file's extension; None if it is not compressed."""
    return COMPRESSED.get(path.rpartition(".")[2].lower())


def _open(path: str) -> BinaryIO:
    """Open a file, and decompress it if its name says so."""
    if codec := _codec(path):
        return io.BufferedReader(pyarrow.CompressedInputStream(path, codec), 1 << 20)
    return open(path, "rb")


def _lines(file: BinaryIO, part: Lines) -> Iterator[tuple[int, bytes]]:
    """Yield (position, line) of the lines that begin in the part, without blank lines."""
    for position, line in _positions(file, part):
        if part.belongs_to_next(position):
            return
        if line.strip():
            yield position, line


def _paragraphs(file: BinaryIO, part: Lines) -> Iterator[tuple[int, bytes]]:
    """Yield (position, block) of the blocks whose preceding blank line begins in the part, or that begin the file."""
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
    """Yield (position, line) from the part's first line on. Raises ValueError at a line as long as MAX_DOCUMENT."""
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
    """The document of a JSON line; None, and added to `left_out`, if it is not JSON or has no text."""
    try:
        content = json.loads(line)
    except ValueError as error:
        left_out.add("not JSON", f"{name} ({error})")
        return None
    return _document(key, content, fields, name, left_out)


def _document(key: str, content: object, fields: Fields, name: str, left_out: LeftOut) -> Document | None:
    """The document of an object or a row; None, and added to `left_out`, if a field is missing or its text empty."""
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
    """Raise ValueError if a file is not Parquet or lacks a column of `fields`, OSError if it is unreadable."""
    try:
        names = parquet.read_schema(path).names
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a Parquet file that can be read: {error}") from None
    for key, name in (("text_field", fields.text), ("label_field", fields.label)):
        if name and name not in names:
            raise ValueError(f"{path} has no column {name!r} but {', '.join(names)}; set {key}=COLUMN")


def labels_of(parts: Iterable[Part]) -> list[str]:
    """All classes of the documents, sorted by value if all are whole numbers, else by the alphabet."""
    found = {document.label for part in parts for document in part.documents(LeftOut()) if document.label is not None}
    if all(label.lstrip("-").isdecimal() for label in found):
        return sorted(found, key=int)
    return sorted(found)
