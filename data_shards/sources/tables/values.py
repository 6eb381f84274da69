"""Values of tables -> encoded images and recordings, classes and texts."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from data_shards.sources.folders import extension
from data_shards.sources.media import Encoded, MediaFile, MediaKind
from data_shards.sources.tables.columns import Columns, path_in
from data_shards.sources.units import LeftOut, Unusable, sorted_classes

_SHOWN = 60
"""Most characters of a value in a message."""


@dataclass(frozen=True)
class Classes:
    """Classes of a table, in the order of their numbers."""

    names: tuple[str, ...]
    numbered: bool = False
    """True if the values are the classes' numbers, as for Hugging Face's ClassLabel."""

    def number(self, value: object, column: str) -> int | None:
        """Number of a value's class; None for -1, ClassLabel's word for an unknown class.

        Raises Unusable if it is none of the classes.
        """
        if not self.numbered:
            number = _numbers(self.names).get(class_name(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            if value == -1:
                return None
            number = value if 0 <= value < len(self.names) else None
        else:
            number = _numbers(self.names).get(value) if isinstance(value, str) else None
        if number is None:
            raise Unusable(f"none of the {len(self.names)} classes of '{column}'", _shown(value))
        return number


def class_name(value: object) -> str:
    """Name of a value's class. Raises Unusable if it is no text that can be written."""
    return _writable(str(value))


def _writable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON may hold "\ud83d", half of a character
        raise Unusable("half of a surrogate pair", f"at character {error.start}") from None
    return text


@lru_cache(maxsize=8)
def _numbers(names: tuple[str, ...]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def bytes_in(value: object) -> bytes | None:
    """The bytes that a value holds, in base64 if it is of JSON; None if it holds none. Raises Unusable."""
    data = value.get("bytes") if isinstance(value, Mapping) else value
    if isinstance(data, str) and (isinstance(value, Mapping) or data.startswith("data:")):
        try:
            return base64.b64decode(data.partition(",")[2] if data.startswith("data:") else data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise Unusable("not base64", error) from None
    return data if isinstance(data, bytes) else None


def beside(table: str, path: str) -> str:
    """Path of a file that a table names, relative to the table. Raises Unusable if there is none."""
    if "://" in path:
        raise Unusable("a URL, which is not fetched; download it", path)
    found = Path(table).parent / path
    try:
        if "\0" not in path and found.is_file():
            return str(found)
    except OSError:  # as a name that is too long
        pass
    raise Unusable("not there", path)


def text_in(value: object, column: str) -> str | None:
    """The text of a value; None without. Raises Unusable if it is no text."""
    if value is None:
        return None
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            value = None
    if not isinstance(value, str):
        raise Unusable(f"no text in '{column}'", _shown(value))
    return _writable(value.strip())


def table_classes(values: Iterable[object]) -> Classes:
    """Classes of the values of a column, without those that have no class."""
    found = set[str]()
    for value in values:
        with suppress(Unusable):
            found |= set() if value is None else {class_name(value)}
    return Classes(tuple(sorted_classes(found)))


@dataclass(frozen=True)
class Described:
    """A row without its image or recording: class and text."""

    label: int | None
    text: str | None


def described(
    row: Mapping[str, object], columns: Columns, classes: Classes, place: str, left_out: LeftOut
) -> Described:
    """Class and text of a row. Raises Unusable. A row without a class is kept and named in `left_out`."""
    label = None
    if columns.label and (value := row.get(columns.label)) is not None:
        label = classes.number(value, columns.label)
    text = text_in(row.get(columns.text), columns.text) if columns.text else None
    if columns.label and label is None:
        left_out.add_kept(f"no class in '{columns.label}'", place)
    return Described(label, text)


def media_file(key: str, path: str, kind: MediaKind, row: Described) -> MediaFile:
    """The file that a row names."""
    stat = Path(path).stat()
    return MediaFile(key, path, stat.st_size, stat.st_mtime_ns, kind, row.label, row.text)


def nothing_in(value: object, noun: str, column: str) -> Unusable:
    """The reason why a value is no image or recording."""
    article = "an" if noun[0] in "aeiou" else "a"
    return Unusable(f"not {article} {noun} in '{column}'", "null" if value is None else type(value).__name__)


def encoded_in(value: object, key: str, place: str, table: str, columns: Columns, noun: str, row: Described) -> Encoded:
    """The image or recording of a row. Raises Unusable, or OSError if its file cannot be read."""
    if (data := bytes_in(value)) is not None:
        name = value.get("path") if isinstance(value, Mapping) else None
        return Encoded(key, place, extension(name) if isinstance(name, str) else "", data, row.label, row.text)
    path = path_in(value)
    if path is None:
        raise nothing_in(value, noun, columns.data)
    file = beside(table, path)
    return Encoded(key, f"{place} ({file})", extension(file), Path(file).read_bytes(), row.label, row.text)
