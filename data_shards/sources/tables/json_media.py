"""source=jsonl of images or recordings: lines with a path relative to the file, {path}, or bytes in base64."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from configs.schema_commands import BuildConfig
from data_shards.sources.blocks import UNREADABLE_ERRORS, Block, all_lines, codec_of, lines, open_file
from data_shards.sources.documents import TOO_LONG, add_unread, decoded, parsed
from data_shards.sources.folders import SourceFile, shuffled
from data_shards.sources.media import MediaKind, MediaModality, Members
from data_shards.sources.tables.columns import Columns, modality_of_value, path_in
from data_shards.sources.tables.values import (
    Classes,
    Described,
    beside,
    described,
    encoded_in,
    media_file,
    table_classes,
)
from data_shards.sources.units import LeftOut, Split, Unit, Unusable

_SNIFFED = 16
"""Lines that may tell what a file holds."""


@dataclass(frozen=True)
class Line:
    """A line that holds the bytes of an image or a recording in base64."""

    key: str
    path: str
    position: int
    length: int
    modified: int
    place: str
    columns: Columns
    kind: MediaKind
    row: Described

    @property
    def size(self) -> int:
        return self.kind.stored_size(self.length * 3 // 4, "", self.row.label)

    def facts(self) -> tuple:
        how = self.kind.facts("", self.length, self.modified, self.row.label, self.row.text)
        return (self.key, self.position, self.columns.data, *how)

    def samples(self, left_out: LeftOut) -> Iterator[tuple[str, Members]]:
        try:
            with Path(self.path).open("rb") as file:
                file.seek(self.position)
                content = _content(file.read(self.length))
            value, noun = content.get(self.columns.data), self.kind.noun
            encoded = encoded_in(value, self.key, self.place, self.path, self.columns, noun, self.row)
        except Unusable as error:
            error.add_to(left_out, self.place)
        except OSError as error:
            left_out.add_unreadable(self.place, error)
        else:
            yield from self.kind.samples(encoded, left_out)


def _content(data: bytes | None) -> Mapping[str, object]:
    """The object of a line. Raises Unusable."""
    if data is None:
        raise Unusable(TOO_LONG)
    content = parsed(decoded(data))
    if not isinstance(content, dict):
        raise Unusable("not a JSON object", type(content).__name__)
    return content


def _blocks(path: str) -> Iterator[Block]:
    """Yield the lines of a file, decompressed. Raises one of UNREADABLE_ERRORS."""
    with open_file(path) as file:
        stop = 2**62
        yield from lines(all_lines(file, 0, stop), stop)


def find_json_media(path: str, asked: MediaModality | None, config: BuildConfig) -> tuple[MediaModality, str] | None:
    """(modality, field) of the images or recordings of a file of JSON lines; None if it holds texts.

    asked: the key `modality`. Without it and `data_field`, a file with texts in `text_field` is one of texts. Raises
    ValueError if several fields may be meant, or none. Raises EOFError if no line can be read.
    """
    if not (rows := _first_objects(path)):
        raise EOFError(f"{path} holds no line that can be read")
    plain = asked is None and not config.data_field
    if plain and any(isinstance(row.get(config.text_field), str) for row in rows):
        return None
    found = {
        name: modality
        for row in rows
        for name, value in row.items()
        if (modality := modality_of_value(value)) and asked in (None, modality)
    }
    names = [config.data_field] if config.data_field else [*found]
    if not names and plain:
        return None
    if len(names) != 1:
        several = f"several fields of files: {', '.join(names)}" if names else f"no field of {asked} files"
        raise ValueError(f"{path} has {several}; set data_field=NAME (it has {', '.join(rows[0])})")
    if modality := asked or found.get(names[0]):
        return modality, names[0]
    raise ValueError(
        f"{path}: field {names[0]!r} does not tell whether it names images or recordings; set modality=vision or "
        f"modality=speech (it has {', '.join(rows[0])})"
    )


def _first_objects(path: str) -> list[Mapping[str, object]]:
    """The objects among the first lines."""
    rows: list[Mapping[str, object]] = []
    try:
        for number, block in enumerate(_blocks(path)):
            if number == _SNIFFED:
                break
            try:
                rows.append(_content(block.data))
            except Unusable:
                continue
    except UNREADABLE_ERRORS:
        pass
    return rows


@dataclass(frozen=True)
class _Row:
    """A line whose content could be read."""

    file: SourceFile
    key: str
    place: str
    block: Block
    values: Mapping[str, object]


def _rows(file: SourceFile, key: str, columns: Columns, left_out: LeftOut) -> Iterator[_Row]:
    """Yield the lines of a file, without the bytes that they hold, up to the first damage."""
    line = 0
    try:
        for block in _blocks(file.path):
            line = block.line
            place = f"{file.path}, line {1 + line}"
            try:
                content = _content(block.data)
            except Unusable as error:
                error.add_to(left_out, place)
                continue
            values = {name: content.get(name) for name in columns.names}
            if path_in(values[columns.data]) is None:
                values[columns.data] = None  # the bytes are read again when the shard is written
            yield _Row(file, f"{key}/{block.position}", place, Block(block.position, line, block.size, None), values)
    except UNREADABLE_ERRORS as error:
        add_unread(left_out, f"{file.path}, after line {1 + line}" if line else file.path, error)


def _unit(row: _Row, columns: Columns, kind: MediaKind, classes: Classes, left_out: LeftOut) -> Unit:
    """The unit of a line. Raises Unusable."""
    name = path_in(row.values[columns.data])
    path = None if name is None else beside(row.file.path, name)
    facts = described(row.values, columns, classes, row.place, left_out)
    if path is not None:
        return media_file(row.key, path, kind, facts)
    if codec_of(row.file.path):
        raise Unusable(f"no path in '{columns.data}', and bytes are read from uncompressed files only; unpack it")
    place = (row.file.path, row.block.position, row.block.size, row.file.modified, row.place)
    return Line(row.key, *place, columns, kind, facts)


def _columns_that_are_there(columns: Columns, rows: list[_Row], config: BuildConfig) -> Columns:
    """The columns without the default `text_field` if no row has a text there.

    Raises ValueError if no row has a field that is asked for.
    """
    default = BuildConfig.__dataclass_fields__["text_field"].default
    if columns.text == default and not any(isinstance(row.values[default], str) for row in rows):
        columns = replace(columns, text="")
    for key, name in (("label_field", columns.label), ("text_field", columns.text)):
        if name and rows and all(row.values[name] is None for row in rows):
            raise ValueError(f"no line of input={config.input} has a field {name!r}; set {key}=NAME")
    return columns


def json_media(
    files: list[tuple[SourceFile, str]], data: str, kind: MediaKind, config: BuildConfig, left_out: LeftOut
) -> Split:
    """Split of the images or recordings that field `data` names or holds. files: (file, its key).

    Raises ValueError if there are none.
    """
    columns = Columns(data, config.label_field, config.text_field)
    rows = [row for file, key in files for row in _rows(file, key, columns, left_out)]
    columns = _columns_that_are_there(columns, rows, config)
    classes = table_classes(row.values[columns.label] for row in rows) if columns.label else Classes(())
    units: list[Unit] = []
    for row in rows:
        try:
            units.append(_unit(row, columns, kind, classes, left_out))
        except Unusable as error:
            error.add_to(left_out, row.place)
    if not units:
        raise ValueError("; ".join([f"input={config.input} holds no {kind.noun}", *left_out.notes()]))
    notes = [f"{kind.noun}s from field {data!r}"]
    return Split(config.name, kind.modality, shuffled(units), list(classes.names), notes=notes, left_out=left_out)
