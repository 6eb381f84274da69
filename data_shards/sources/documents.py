"""Documents of text files, JSON lines and Parquet, in parts that can be read independently of each other."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import pyarrow
from pyarrow import parquet

from data_shards.sources.blocks import (
    MAX_DOCUMENT,
    RATIO,
    UNREADABLE_ERRORS,
    Block,
    all_lines,
    codec_of,
    is_damage,
    lines,
    lines_before,
    open_file,
    paragraphs,
)
from data_shards.sources.tables.fields import PARQUET_ERRORS, check_column, one_line, value_of
from data_shards.sources.units import LeftOut, Unusable, read_unchanged

_TEXT_TYPES = ("string", "binary", "null")
TOO_LONG = f"longer than {MAX_DOCUMENT >> 20} MiB"


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
    file_size: int
    modified: int

    @property
    def size(self) -> int:
        return int(self.file_size * (RATIO if codec_of(self.path) else 1))

    def facts(self) -> tuple:
        return (self.key, self.file_size, self.modified)

    def documents(self, left_out: LeftOut) -> Iterator[Document]:
        try:
            document = Document(f"{self.key}/0", decoded(self._read()))
        except UNREADABLE_ERRORS as error:
            add_unread(left_out, self.path, error)
        except Unusable as error:
            error.add_to(left_out, self.path)
        else:
            yield document

    def _read(self) -> bytes:
        """Read the file. Raises Unusable if it is too long."""
        if self.file_size <= MAX_DOCUMENT and not codec_of(self.path):
            return read_unchanged(self.path, self.file_size)
        with open_file(self.path) as file:
            data = file.read(MAX_DOCUMENT + 1)
        if len(data) > MAX_DOCUMENT:
            raise Unusable(f"{TOO_LONG}; if it holds several documents: documents=paragraphs or documents=lines")
        return data


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
        return int((self.stop - self.start) * (RATIO if codec_of(self.path) else 1))

    def facts(self) -> tuple:
        return (self.key, self.start, self.stop, self.modified, self.kind, self.fields)

    def documents(self, left_out: LeftOut) -> Iterator[Document]:
        line = 0
        try:
            for block in self._blocks():
                line = block.line
                try:
                    document = self._document(block)
                except Unusable as error:
                    error.add_to(left_out, self._place(line))
                else:
                    yield document
        except UNREADABLE_ERRORS as error:
            add_unread(left_out, f"{self.path}, after line {1 + line}" if line and not self.start else self.path, error)

    def _blocks(self) -> Iterator[Block]:
        """Yield the lines or paragraphs."""
        stop = sys.maxsize if codec_of(self.path) else self.stop
        with open_file(self.path) as file:
            found = all_lines(file, self.start, stop)
            yield from paragraphs(found, stop, not self.start) if self.kind == "paragraphs" else lines(found, stop)

    def _document(self, block: Block) -> Document:
        """The document of a line or a paragraph. Raises Unusable."""
        if block.data is None:
            raise Unusable(TOO_LONG)
        key, text = f"{self.key}/{block.position}", decoded(block.data)
        return Document(key, text) if self.fields is None else _document(key, parsed(text), self.fields)

    def _first_line(self) -> int:
        """Number of the first line, counted from 1. It is found only when needed, because the file is read for it."""
        return 1 + lines_before(self.path, self.start)

    def _place(self, line: int) -> str:
        return f"{self.path}, line {self._first_line() + line}"


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
        except PARQUET_ERRORS as error:
            add_unread(left_out, self.path, error)
            return
        with file:
            for group in self.groups:
                yield from self._documents(file, group, left_out)

    def _documents(self, file: parquet.ParquetFile, group: int, left_out: LeftOut) -> Iterator[Document]:
        """Yield the documents of a row group, up to the first damage."""
        place, row = f"{self.path}, row group {group}", 0
        try:
            for text, label in self._values(file, group):
                try:
                    content = {self.fields.text: _value(text)}
                    if label is not None:
                        content[self.fields.label] = _value(label)
                    document = _document(f"{self.key}/{group}-{row}", content, self.fields)
                except Unusable as error:
                    error.add_to(left_out, f"{place}, row {row}")
                else:
                    yield document
                row += 1
        except PARQUET_ERRORS as error:
            add_unread(left_out, f"{place}, from row {row} on", error)

    def _values(self, file: parquet.ParquetFile, group: int) -> Iterator[tuple[pyarrow.Scalar, pyarrow.Scalar | None]]:
        """Yield (text, class) of each row."""
        columns = [*dict.fromkeys(name for name in (self.fields.text, self.fields.label) if name)]
        for batch in file.iter_batches(1024, [group], columns):
            texts = batch.column(self.fields.text)
            labels = batch.column(self.fields.label) if self.fields.label else [None] * len(texts)
            yield from zip(texts, labels, strict=True)


def add_unread(left_out: LeftOut, place: str, error: BaseException) -> None:
    """Add what could not be read to `left_out`: damaged bytes, or bytes that the operating system does not give."""
    if isinstance(error, OSError) and not is_damage(error):
        left_out.add_unreadable(place, error)
    else:
        left_out.add("damaged or incomplete; used up to there", f"{place} ({one_line(error)})")


def decoded(data: bytes) -> str:
    """Text of UTF-8 bytes, without white space around it. Raises Unusable for empty and other bytes."""
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise Unusable("not UTF-8", f"{error.reason} {error.start} bytes into it") from None
    if not text:
        raise Unusable("empty")
    return text


def parsed(line: str) -> object:
    """Content of a JSON line. Raises Unusable if it is not JSON."""
    try:
        return json.loads(line)
    except RecursionError:
        raise Unusable("JSON that is nested too deeply") from None
    except ValueError as error:
        raise Unusable("not JSON", error) from None


def _value(scalar: pyarrow.Scalar) -> object:
    """Value of a Parquet field, bytes decoded as text. Raises Unusable as `value_of`."""
    value = value_of(scalar)
    return decoded(value) if isinstance(value, bytes) else value


def _document(key: str, content: object, fields: Fields) -> Document:
    """The document of an object or a row. Raises Unusable if a field is missing or no text, or its text empty."""
    text = content.get(fields.text) if isinstance(content, dict) else None
    label = content.get(fields.label) if isinstance(content, dict) and fields.label else None
    if not isinstance(text, str):
        raise Unusable(f"no text in '{fields.text}'")
    if not text.strip():
        raise Unusable("empty")
    if fields.label and label is None:
        raise Unusable(f"no class in '{fields.label}'")
    document = Document(key, text.strip(), None if label is None else str(label))
    try:
        f"{document.text}{document.label}".encode()
    except UnicodeEncodeError as error:  # JSON may hold "\ud83d", half of a character
        raise Unusable("half of a surrogate pair", f"at character {error.start}") from None
    return document


def check_columns(path: str, fields: Fields) -> None:
    """Raise Unusable if a file lacks a column of `fields` or has no text in it.

    Raises one of PARQUET_ERRORS if it is not Parquet or unreadable.
    """
    schema = parquet.read_schema(path)
    for key, name in (("text_field", fields.text), ("label_field", fields.label)):
        if name:
            check_column(schema, name, key)
    if not _is_text(kind := schema.field(fields.text).type):
        raise Unusable(f"column {fields.text!r} holds {kind}, not text; set text_field=COLUMN")


def _is_text(kind: pyarrow.DataType) -> bool:
    """True if values of this type of column may be texts."""
    if isinstance(kind, pyarrow.DictionaryType):
        return _is_text(kind.value_type)
    if isinstance(kind, pyarrow.BaseExtensionType):
        return _is_text(kind.storage_type)
    return any(name in str(kind) for name in _TEXT_TYPES) and not pyarrow.types.is_nested(kind)
