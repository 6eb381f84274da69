"""source=parquet and source=jsonl: images, recordings or documents, as the keys or the first file say."""

from __future__ import annotations

from pathlib import Path

from configs.schema_commands import BuildConfig
from data_shards.sources.folders import fitting_keys, keys_of
from data_shards.sources.images import Images
from data_shards.sources.media import MediaKind, MediaModality
from data_shards.sources.recordings import Recordings
from data_shards.sources.tables.columns import find_media
from data_shards.sources.tables.fields import PARQUET_ERRORS
from data_shards.sources.tables.json_media import find_json_media, json_media
from data_shards.sources.tables.parquet_media import parquet_media
from data_shards.sources.texts import source_files, text_source
from data_shards.sources.units import LeftOut, Split, Unusable


def media_kind(modality: MediaModality, config: BuildConfig) -> MediaKind:
    """Checks and stored form of images or recordings, as the keys say."""
    if modality == "vision":
        return Images(config.decode)
    return Recordings(config.min_seconds, config.segment_seconds)


def table_source(root: Path, config: BuildConfig) -> Split:
    """Split of the rows of a Parquet file, a file of JSON lines, or a folder of them.

    Raises ValueError if there are none, or if it cannot be told what they hold.
    """
    left_out = LeftOut()
    files = source_files(root, config, left_out)
    if (found := _first_media([file.path for file in files], config)) is None:
        return text_source(root, config)
    keys = fitting_keys(keys_of(files), files, lambda file: f"/{file.size}-00000000/piece0000.flac", left_out)
    modality, data = found
    make = parquet_media if config.source == "parquet" else json_media
    return make([*zip(files, keys, strict=True)], data, media_kind(modality, config), config, left_out)


def _first_media(paths: list[str], config: BuildConfig) -> tuple[MediaModality, str] | None:
    """(modality, column or field) of the first file that can be read; None for texts. Raises ValueError."""
    if config.modality == "text":
        return None
    if config.modality and config.data_field:
        return config.modality, config.data_field
    find = find_media if config.source == "parquet" else find_json_media
    for path in paths:
        try:
            return find(path, config.modality, config)
        except (*PARQUET_ERRORS, EOFError):
            continue
        except Unusable as error:
            raise ValueError(f"{path}: {error.reason} ({error.details})") from None
    if config.modality:
        raise ValueError(f"input={config.input} holds no {config.source} file that can be read, as {paths[0]}")
    return None
