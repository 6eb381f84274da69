"""Manifests of images or recordings: tables that name files, in TSV or CSV, or fairseq's list.

The first line of a table names its columns; other columns are ignored. Paths are relative to the manifest, or for
Common Voice to the folder `clips` beside it. A list as fairseq's has the folder in its first line, and then lines
`path<TAB>samples`.
"""

from __future__ import annotations

import csv
import os
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from configs.schema_commands import BuildConfig
from data_shards.sources.folders import SourceFile, fitting_keys, keys_of, shuffled, source_file
from data_shards.sources.media import MediaFile, MediaKind
from data_shards.sources.tables.fields import one_line
from data_shards.sources.units import LeftOut, Split, Unit, sorted_classes

_PATHS = ("path", "file_name", "file", "filename", "audio_filepath")
_TEXTS = ("text", "sentence", "transcript", "transcription", "caption")
_LABELS = ("label",)
_CLIPS = "clips"
_DEFAULT_TEXT = BuildConfig.__dataclass_fields__["text_field"].default


@dataclass(frozen=True)
class _Row:
    """A line of a manifest."""

    name: str
    label: str | None
    text: str | None


def _lines(path: Path, left_out: LeftOut) -> Iterator[str]:
    """Yield the lines with their ends, without those that are blank or not UTF-8."""
    for number, line in enumerate(path.read_bytes().removeprefix(BOM_UTF8).splitlines(keepends=True), 1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            left_out.add("not UTF-8", f"{path}, line {number} ({error.reason} {error.start} bytes into it)")
        else:
            if text.strip():
                yield text


def _records(path: Path, left_out: LeftOut) -> Iterator[list[str]]:
    """Yield the values of each line: between tabs, or of CSV if the file's name ends with .csv."""
    lines = _lines(path, left_out)
    if path.suffix.lower() != ".csv":
        yield from (line.rstrip("\r\n").split("\t") for line in lines)
        return
    reader = csv.reader(lines)
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            left_out.add("not CSV", f"{path}, near line {reader.line_num} ({one_line(error)})")


def _column(columns: list[str], asked: str, known: tuple[str, ...], key: str, path: Path) -> str:
    """Name of a column: the one that is asked for, else the first known one; "" if there is none.

    Raises ValueError if the one that is asked for is not there.
    """
    if asked and asked not in columns:
        raise ValueError(f"input={path} has no column {asked!r}; set {key}=COLUMN (it has {', '.join(columns)})")
    return asked or next((name for name in known if name in columns), "")


def _rows(path: Path, config: BuildConfig, left_out: LeftOut) -> tuple[Path, list[_Row]]:
    """(root, lines) of a manifest. Raises ValueError if it is none, or if a column that is asked for is not there."""
    records = _records(path, left_out)
    columns = next(records, [])
    if config.data_field or any(name in columns for name in _PATHS):
        name = _column(columns, config.data_field, _PATHS, "data_field", path)
        label = _column(columns, config.label_field, _LABELS, "label_field", path)
        text = "" if config.text_field == _DEFAULT_TEXT else config.text_field
        text = _column(columns, text, _TEXTS, "text_field", path)
        rows = (dict(zip(columns, record, strict=False)) for record in records)
        found = [_Row(row.get(name, ""), row.get(label) or None, row.get(text) or None) for row in rows]
        return path.parent, found
    if len(columns) == 1 and path.suffix.lower() != ".csv":
        return path.parent / columns[0], [_Row(record[0], None, None) for record in records]
    raise ValueError(
        f"input={path} is no manifest: its first line is neither a folder (as fairseq's) nor column names with 'path' "
        f"(and, where you have them, 'text' and 'label'), between tabs or, in a .csv file, commas; give a folder or a "
        f"manifest, or name the column of the paths with data_field=COLUMN"
    )


def _found(root: Path, name: str) -> tuple[str, ...] | None:
    """Parts of the path of a file that a manifest names; None if it is not there."""
    for parts in (Path(name).parts, (_CLIPS, *Path(name).parts)):
        try:
            if "\0" not in name and os.path.isfile(root.joinpath(*parts)):
                return parts
        except OSError:  # as a name that is too long
            return None
    return None


def manifest_split(path: Path, kind: MediaKind, config: BuildConfig) -> Split:
    """Split of the files that a manifest names. Raises ValueError if it is none, or names no file that is there."""
    left_out, files, rows, seen = LeftOut(), list[SourceFile](), list[_Row](), set[tuple[str, ...]]()
    root, listed = _rows(path, config, left_out)
    for row in listed:
        if (parts := _found(root, row.name)) is None:
            left_out.add("not there", row.name)
        elif parts in seen:
            left_out.add("named twice", row.name)
        else:
            seen.add(parts)
            files.append(source_file(root, parts))
            rows.append(row)
    if not files:
        kinds = " ".join(kind.extensions)
        raise ValueError("; ".join([f"input={path} holds no {kind.noun} ({kinds})", *left_out.notes()]))
    classes = sorted_classes(row.label for row in rows if row.label is not None)
    number = {name: i for i, name in enumerate(classes)}
    keys = fitting_keys(_keys(files), files, lambda _: "/piece0000.flac", left_out)
    units: list[Unit] = [
        MediaFile(key, file.path, file.size, file.modified, kind, number.get(row.label or ""), row.text)
        for key, file, row in zip(keys, files, rows, strict=True)
    ]
    return Split(config.name, kind.modality, shuffled(units), classes, left_out=left_out)


def _keys(files: list[SourceFile]) -> list[str]:
    """Keys as `keys_of`, without the `/` and `..` with which paths of a manifest may begin."""
    plain = [tuple(part for part in file.parts if part not in ("/", "..")) for file in files]
    return keys_of([SourceFile(file.root, parts, 0, 0) for file, parts in zip(files, plain, strict=True)])
