"""Columns of a table that hold images or recordings, their classes and their texts.

Hugging Face's `datasets` stores an image or a recording as {bytes, path}, and says in the metadata `huggingface` of a
Parquet file which columns are images, recordings and classes, and the names of the classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow
from pyarrow import parquet

from configs.schema_commands import BuildConfig
from data_shards.sources.folders import extension
from data_shards.sources.media import MediaModality
from data_shards.sources.tables.fields import PARQUET_ERRORS, check_column
from data_shards.speech.audio import AUDIO_EXTENSIONS, audio_length
from data_shards.vision.formats import IMAGE_EXTENSIONS, extension_of

_FEATURES: dict[object, MediaModality] = {"Image": "vision", "Audio": "speech"}
_NOUNS = {"vision": "images", "speech": "recordings"}


@dataclass(frozen=True)
class Columns:
    """Names of the fields that become a sample."""

    data: str
    label: str = ""
    """"" without classes."""
    text: str = ""
    """"" without texts."""

    @property
    def names(self) -> list[str]:
        """The names, each once."""
        return [*dict.fromkeys(name for name in (self.data, self.label, self.text) if name)]


def features_of(schema: pyarrow.Schema) -> dict[str, dict]:
    """Hugging Face's description of each column; empty if there is none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def class_label_names(schema: pyarrow.Schema, column: str) -> tuple[str, ...]:
    """Names of the classes that Hugging Face's metadata give a column; none without."""
    feature = features_of(schema).get(column, {})
    names = feature.get("names") if feature.get("_type") == "ClassLabel" else None
    return tuple(map(str, names)) if isinstance(names, list) else ()


def media_columns(schema: pyarrow.Schema) -> dict[str, MediaModality | None]:
    """Columns that hold encoded files, with their modality; None if only their content tells it."""
    features = features_of(schema)
    found: dict[str, MediaModality | None] = {}
    for field in schema:
        modality = _FEATURES.get(features.get(field.name, {}).get("_type"))
        if modality or _is_bytes_and_path(field.type):
            found[field.name] = modality
    return found


def _is_bytes_and_path(kind: pyarrow.DataType) -> bool:
    """True for structs {bytes, path}, in any order."""
    if not pyarrow.types.is_struct(kind):
        return False
    names = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
    return names.keys() <= {"bytes", "path"} and is_binary(names.get("bytes", pyarrow.null()))


def is_binary(kind: pyarrow.DataType) -> bool:
    """True for columns of bytes."""
    types = pyarrow.types
    return types.is_binary(kind) or types.is_large_binary(kind) or "binary_view" in str(kind)


def find_media(path: str, asked: MediaModality | None, config: BuildConfig) -> tuple[MediaModality, str] | None:
    """(modality, column) of the images or recordings of a Parquet file; None if it holds texts.

    asked: the key `modality`. Raises ValueError if several columns may be meant, or none, or if the values do not tell
    which of both they are. Raises one of PARQUET_ERRORS if the file is not Parquet or unreadable.
    """
    schema = parquet.read_schema(path)
    columns = media_columns(schema)
    if config.data_field:
        check_column(schema, config.data_field, "data_field")
        names = [config.data_field]
    else:
        names = [name for name, modality in columns.items() if asked in (None, modality) or modality is None]
    if not names and asked is None:
        return None
    if len(names) != 1:
        wanted = _NOUNS.get(str(asked), "images or recordings")
        several = f"several columns of {wanted}: {', '.join(names)}" if names else f"no column of {wanted}"
        raise ValueError(f"{path} has {several}; set data_field=COLUMN (it has {', '.join(schema.names)})")
    modality = asked or columns.get(names[0]) or _modality_of_values(path, names[0])
    return modality, names[0]


def choose_columns(schema: pyarrow.Schema, data: str, config: BuildConfig) -> Columns:
    """The columns of a file's samples. Raises Unusable if one that is asked for is not there.

    Without `label_field` the classes are those of the only column that Hugging Face's metadata call ClassLabel.
    """
    labels = [name for name in schema.names if class_label_names(schema, name)]
    label = config.label_field or (labels[0] if len(labels) == 1 else "")
    default = BuildConfig.__dataclass_fields__["text_field"].default
    text = "" if config.text_field == default and default not in schema.names else config.text_field
    for name, key in ((data, "data_field"), (label, "label_field"), (text, "text_field")):
        if name:
            check_column(schema, name, key)
    return Columns(data, label, text)


def _modality_of_values(path: str, column: str) -> MediaModality:
    """Modality of the first value that shows it. Raises ValueError if none of the first ones does."""
    with parquet.ParquetFile(path) as file:
        for value in _first_values(file, column):
            if modality := modality_of_value(value):
                return modality
    raise ValueError(
        f"{path}: the values of column {column!r} do not tell whether they are images or recordings; set "
        f"modality=vision or modality=speech, or modality=text if its texts are meant"
    )


def _first_values(file: parquet.ParquetFile, column: str, most: int = 16) -> Iterator[object]:
    """Yield the first values of a column, those that can be read."""
    try:
        batch = next(file.iter_batches(most, columns=[column]))
        yield from (scalar.as_py() for scalar in batch.column(column))
    except (StopIteration, UnicodeDecodeError, *PARQUET_ERRORS):
        return


def names_files(path: str, column: str) -> bool:
    """True if the first values of a column are paths, not bytes."""
    with parquet.ParquetFile(path) as file:
        values = [value for value in _first_values(file, column) if value is not None]
    return bool(values) and all(path_in(value) is not None for value in values)


def path_in(value: object) -> str | None:
    """The path that a value gives instead of bytes; None if it gives none."""
    if isinstance(value, Mapping) and value.get("bytes") is None:
        value = value.get("path")
    return value if isinstance(value, str) and value and not value.startswith("data:") else None


def modality_of_value(value: object) -> MediaModality | None:
    """Modality of {bytes, path}, of bytes, or of a path; None if it is none of these."""
    data, path = value, value
    if isinstance(value, dict):
        data, path = value.get("bytes"), value.get("path")
    if isinstance(path, str):
        if extension(path) in IMAGE_EXTENSIONS:
            return "vision"
        if extension(path) in AUDIO_EXTENSIONS:
            return "speech"
    if not isinstance(data, bytes) or not data:
        return None
    if extension_of(data):
        return "vision"
    try:
        return "speech" if audio_length(data) else None
    except ValueError:
        return None
