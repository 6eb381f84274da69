"""source=parquet of images or recordings: rows with {bytes, path}, bytes, or paths relative to the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import pyarrow
from pyarrow import parquet

from configs.schema_commands import BuildConfig
from data_shards.sources.documents import add_unread
from data_shards.sources.folders import SourceFile, shuffled
from data_shards.sources.media import Encoded, MediaKind, Members
from data_shards.sources.tables.columns import Columns, choose_columns, class_label_names, names_files, path_in
from data_shards.sources.tables.fields import PARQUET_ERRORS, value_of
from data_shards.sources.tables.footers import read_footer
from data_shards.sources.tables.values import Classes, beside, described, encoded_in, media_file, table_classes
from data_shards.sources.units import LeftOut, Split, Unit, Unusable

_PART = 2**26
"""Approximate most bytes of rows that are read, and shuffled, at a time."""
_BATCH = 64
"""Rows decoded at a time."""


@dataclass(frozen=True)
class Rows:
    """Rows [start, stop) of a row group."""

    key: str
    path: str
    modified: int
    group: int
    start: int
    stop: int
    size: int
    columns: Columns
    kind: MediaKind
    classes: Classes

    def facts(self) -> tuple:
        how = self.kind.facts("", 0, self.modified, None, None)
        return (self.key, self.group, self.start, self.stop, self.columns, self.classes, *how)

    def samples(self, left_out: LeftOut) -> Iterator[tuple[str, Members]]:
        for encoded in shuffled([*self._encoded(left_out)]):
            yield from self.kind.samples(encoded, left_out)

    def _encoded(self, left_out: LeftOut) -> Iterator[Encoded]:
        """Yield the rows' images or recordings, up to the first damage."""
        row, group = self.start, f"{self.path}, row group {self.group}"
        try:
            for values in _read(self.path, self.group, self.start, self.stop, self.columns.names):
                place = f"{group}, row {row}"
                try:
                    yield self._row(values, row, place, left_out)
                except Unusable as error:
                    error.add_to(left_out, place)
                except OSError as error:
                    left_out.add_unreadable(place, error)
                row += 1
        except PARQUET_ERRORS as error:
            add_unread(left_out, f"{group}, from row {row} on", error)

    def _row(self, scalars: dict[str, pyarrow.Scalar], row: int, place: str, left_out: LeftOut) -> Encoded:
        """The image or recording of a row. Raises Unusable, or OSError if it is in a file that cannot be read."""
        values = {name: value_of(scalar) for name, scalar in scalars.items()}
        facts = described(values, self.columns, self.classes, place, left_out)
        key = f"{self.key}/{self.group}-{row}"
        return encoded_in(values[self.columns.data], key, place, self.path, self.columns, self.kind.noun, facts)


def _read(path: str, group: int, start: int, stop: int, names: list[str]) -> Iterator[dict[str, pyarrow.Scalar]]:
    """Yield rows [start, stop) of a row group. Raises one of PARQUET_ERRORS at the first damage."""
    row = 0
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH, [group], names):
            columns = {name: batch.column(name) for name in names}
            for i in range(max(0, start - row), min(len(batch), stop - row)):
                yield {name: column[i] for name, column in columns.items()}
            row += len(batch)
            if row >= stop:
                return


def _plan(file: SourceFile, key: str, columns: Columns, kind: MediaKind, classes: Classes) -> Iterator[Rows]:
    """Yield a file's rows in parts of about `_PART` bytes. Raises one of PARQUET_ERRORS."""
    footer = read_footer(file.path)
    for group in range(footer.num_row_groups):
        facts = footer.row_group(group)
        leaves = [facts.column(i) for i in range(footer.num_columns)]
        ours = (leaf for leaf in leaves if f"{leaf.path_in_schema}.".startswith(f"{columns.data}."))
        size, rows = sum(leaf.total_uncompressed_size for leaf in ours), facts.num_rows
        parts = min(rows, -(-size // _PART) or 1)
        for part in range(parts):
            start, stop = rows * part // parts, rows * (part + 1) // parts
            share = kind.stored_size(size * (stop - start) // rows, "", None) + 2048 * (stop - start)
            yield Rows(key, file.path, file.modified, group, start, stop, share, columns, kind, classes)


def _one_by_one(part: Rows, left_out: LeftOut) -> Iterator[Unit]:
    """Yield a unit for each row of a part whose rows name files, so that the sizes are known."""
    row = part.start - 1
    for values in _read(part.path, part.group, part.start, part.stop, part.columns.names):
        row += 1
        place = f"{part.path}, row group {part.group}, row {row}"
        try:
            found = {name: value_of(scalar) for name, scalar in values.items()}
            if (name := path_in(found[part.columns.data])) is None:
                yield replace(part, start=row, stop=row + 1, size=part.size // (part.stop - part.start))
                continue
            path = beside(part.path, name)
            facts = described(found, part.columns, part.classes, place, left_out)
            yield media_file(f"{part.key}/{part.group}-{row}", path, part.kind, facts)
        except Unusable as error:
            error.add_to(left_out, place)


def _classes(files: list[tuple[SourceFile, Columns]]) -> Classes:
    """The classes of all files. Raises ValueError if the files name their numbers differently."""
    named: dict[tuple[str, ...], list[str]] = {}
    for file, columns in files:
        named.setdefault(class_label_names(parquet.read_schema(file.path), columns.label), []).append(file.path)
    if len(named) > 1:
        odd, *_, most = sorted(named.values(), key=len)
        raise ValueError(
            f"{odd[0]} has other names for the classes in '{files[0][1].label}' than {most[0]} ({len(odd)} and "
            f"{len(most)} such files): it is damaged, or to be built apart"
        )
    if names := next(iter(named), ()):
        return Classes(names, numbered=True)
    return table_classes(_labels(files))


def _labels(files: list[tuple[SourceFile, Columns]]) -> Iterator[object]:
    """Yield the classes of all rows that can be read."""
    for file, columns in files:
        with suppress(*PARQUET_ERRORS), parquet.ParquetFile(file.path) as table:
            for batch in table.iter_batches(columns=[columns.label]):
                for scalar in batch.column(columns.label):
                    with suppress(Unusable):
                        yield value_of(scalar)


def parquet_media(
    files: list[tuple[SourceFile, str]], data: str, kind: MediaKind, config: BuildConfig, left_out: LeftOut
) -> Split:
    """Split of the images or recordings in column `data`. files: (file, its key).

    Raises ValueError if there are none, or if the files contradict each other.
    """
    tables: list[tuple[SourceFile, str, Columns]] = []
    for file, key in files:
        try:
            tables.append((file, key, choose_columns(parquet.read_schema(file.path), data, config)))
        except PARQUET_ERRORS as error:
            add_unread(left_out, file.path, error)
        except Unusable as error:
            error.add_to(left_out, file.path)
    if not tables:
        raise ValueError("; ".join([f"input={config.input} holds no {kind.noun}", *left_out.notes()]))
    labelled = [(file, columns) for file, _, columns in tables if columns.label]
    classes = _classes(labelled) if labelled else Classes(())
    units: list[Unit] = []
    for file, key, columns in tables:
        try:
            parts = [*_plan(file, key, columns, kind, classes)]
            named = names_files(file.path, data)
            units += [unit for part in parts for unit in _one_by_one(part, left_out)] if named else parts
        except PARQUET_ERRORS as error:
            add_unread(left_out, file.path, error)
    notes = [f"{kind.noun}s from column {data!r}" + (f", classes from {labelled[0][1].label!r}" if labelled else "")]
    return Split(config.name, kind.modality, shuffled(units), list(classes.names), notes=notes, left_out=left_out)
