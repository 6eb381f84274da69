"""Checking shards against their index: every difference with its file and key."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

from tqdm import tqdm

from configs.schema import Patterns
from data_shards.index import ShardEntry, local_shards, read_folder_index, read_rows, sidecar
from data_shards.indexer import file_sha256
from data_shards.processes import each
from data_shards.tar import damaged_name

_SHOWN = 20
"""Samples listed per shard."""


def _sample_differences(path: Path) -> list[str]:
    """Samples whose bytes are not those of the sidecar."""
    found = []
    with path.open("rb") as file:
        for row, (offset, size, crc, _) in enumerate(read_rows(path).tolist()):
            file.seek(offset)
            blocks = file.read(size)
            if len(blocks) < size:
                found.append(f"{path}: row {row}: {size - len(blocks)} of {size} bytes lie behind the end of the file")
            elif zlib.crc32(blocks) != crc:
                found.append(f"{path}: {damaged_name(blocks, row)}: checksum differs")
    return found


def _shard_differences(path: Path, entry: ShardEntry | None) -> list[str]:
    """Everything in which a shard differs from its entry in index.json and its sidecar."""
    if entry is None:
        return [f"{path}: not in index.json"]
    if not path.is_file():
        return [f"{path}: in index.json, but missing"]
    found = []
    if (size := path.stat().st_size) != entry.filesize:
        found.append(f"{path}: {size} bytes, index.json says {entry.filesize}")
    try:
        rows = read_rows(path)
        if len(rows) != entry.nsamples:
            found.append(f"{sidecar(path)}: {len(rows)} samples, index.json says {entry.nsamples}")
        if hashlib.sha256(sidecar(path).read_bytes()).hexdigest() != entry.idx_sha256:
            found.append(f"{sidecar(path)}: sha256 differs from index.json")
        samples = _sample_differences(path)
    except (ValueError, OSError) as error:
        return [*found, str(error)]
    if len(samples) > _SHOWN:
        samples[_SHOWN:] = [f"{path}: ... and {len(samples) - _SHOWN} samples more"]
    found += samples
    if not found and file_sha256(path) != entry.sha256:
        found.append(f"{path}: sha256 differs from index.json, outside the samples")
    return found


def _differences(path: Path) -> list[str]:
    entries = {entry.url: entry for entry in read_folder_index(path.parent).shards}
    return _shard_differences(path, entries.get(path.name))


def validate_shards(shards: Patterns) -> tuple[list[str], int]:
    """Lines that name every difference of the shards from their index, and the number of shards.

    Raises ValueError where `shards` names none.
    """
    paths = local_shards(shards)
    bar = tqdm(each(_differences, paths, None), total=len(paths), unit=" shards", disable=None)
    return [line for lines in bar for line in lines], len(paths)
