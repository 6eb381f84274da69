"""Sidecars and index.json for tars that others built (plain WebDataset)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from configs.schema_training import Patterns
from data_shards.files import file_sha256, locked
from data_shards.kinds import length_of
from data_shards.making.writer import entry_of, save_folder_index, save_sidecar
from data_shards.processes import each
from data_shards.progress import shards_progress
from data_shards.shards.index_file import TOKENIZER_NAME, FolderIndex, ShardEntry, TokenizerEntry, read_folder_index
from data_shards.shards.patterns import local_shards
from data_shards.shards.sidecar import ROW, crc32
from data_shards.shards.tar import parse_sample, scan
from data_shards.text.tokenizer import load_tokenizer


@dataclass(frozen=True)
class _Indexed:
    """A shard whose sidecar is written, or why it could not be."""

    path: Path
    entry: ShardEntry | None = None
    key_hashes: np.ndarray | None = None
    """uint64 [nsamples]: to find keys that two shards share without keeping the keys."""
    problem: str = ""


def file_size(path: Path) -> int:
    """Bytes of a file, 0 where it is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def key_hashes(keys: Iterable[str]) -> np.ndarray:
    """uint64 [number of keys]."""
    encoded = (key.encode("utf-8", "surrogateescape") for key in keys)
    digests = b"".join(hashlib.blake2b(key, digest_size=8).digest() for key in encoded)
    return np.frombuffer(digests, "<u8")


def _index_shard(path: Path) -> _Indexed:
    """Scan one shard and write its sidecar, unless it has what readers would lose or merge."""
    try:
        return _scanned(path)
    except ValueError as error:
        return _Indexed(path, problem=str(error))
    except OSError as error:
        return _Indexed(path, problem=f"{path}: {error.strerror or error}")


def _scanned(path: Path) -> _Indexed:
    spans, rows = scan(path), []
    with path.open("rb") as file:
        for span in spans:
            if span.size >= 2**32:
                raise ValueError(f"{path}: sample {span.key!r} has {span.size} bytes; a sample has to be below 4 GiB")
            file.seek(span.offset)
            blocks = file.read(span.size)
            _, members = parse_sample(blocks)
            rows.append((span.offset, span.size, crc32(blocks), length_of(members)))
    table = np.array(rows, ROW)
    idx_sha256 = save_sidecar(path, table)
    entry = entry_of(path, table, path.stat().st_size, file_sha256(path), idx_sha256)
    return _Indexed(path, entry, key_hashes(span.key for span in spans))


def _series(shard: tuple[Path, np.ndarray]) -> tuple[str, str]:
    """What a shard is read with: those of its folder with the same NAME before -000000.tar."""
    return str(shard[0].parent), shard[0].name.rpartition("-")[0]


def shared_keys(shards: Iterable[tuple[Path, np.ndarray]]) -> dict[Path, str]:
    """What to say of shards that have a key of another one of their series."""
    found: dict[Path, str] = {}
    for _, group in groupby(sorted(shards, key=lambda shard: (_series(shard), shard[0])), _series):
        members = list(group)
        hashes, counts = np.unique(np.concatenate([keys for _, keys in members]), return_counts=True)
        repeated = hashes[counts > 1]
        if repeated.size:
            found |= {
                path: _shared(path, keys, repeated, members) for path, keys in members if np.isin(keys, repeated).any()
            }
    return found


def _shared(path: Path, keys: np.ndarray, repeated: np.ndarray, shards: list[tuple[Path, np.ndarray]]) -> str:
    rows = np.flatnonzero(np.isin(keys, repeated))
    other = next(place for place, others in shards if place != path and keys[rows[0]] in others)
    return (
        f"{path}: {len(rows)} of its keys are in other shards too, as {scan(path)[rows[0]].key!r} in {other}: other "
        f"readers may merge such samples; give every sample a key of its own"
    )


def index_shards(shards: Patterns) -> tuple[list[str], list[str]]:
    """Write the sidecars and index.json of the shards that `shards` names.

    Returns lines that say what was done, and a line for each shard that cannot be indexed (see `tar.scan`, and keys
    that two shards of a series have); what index.json says of these stays as it was.
    """
    paths = local_shards(shards, promised=False)
    sizes = {path: file_size(path) for path in paths}
    found = []
    with shards_progress("index", sum(sizes.values()), len(paths)) as progress:
        for shard in each(_index_shard, paths, None):
            found.append(shard)
            progress.add(sizes[shard.path], shard.entry.nsamples if shard.entry else 0)
    problems = {shard.path: shard.problem for shard in found if shard.problem}
    problems |= shared_keys((shard.path, shard.key_hashes) for shard in found if shard.key_hashes is not None)
    good = {shard.path: shard.entry for shard in found if shard.entry and shard.path not in problems}
    return _save(good), [problems[path] for path in sorted(problems)]


def _save(good: dict[Path, ShardEntry]) -> list[str]:
    """Put the entries into index.json; returns lines that say so."""
    paths = sorted(good)
    lines = [f"warning: {path} is empty: 0 samples" for path in paths if not good[path].nsamples]
    for folder, group in groupby(paths, key=lambda path: path.parent):
        entries = {path.name: good[path] for path in group}
        with locked(folder):
            _merge(folder, entries)
        samples = sum(entry.nsamples for entry in entries.values())
        lines.append(f"{folder}: indexed {samples:,} samples in {len(entries)} shards")
    return lines


def _merge(folder: Path, entries: dict[str, ShardEntry]) -> None:
    """Put the entries into the folder's index.json; what it says of other shards that exist stays."""
    try:
        index = read_folder_index(folder)
    except ValueError:  # damaged, or another program's: made anew
        index = FolderIndex()
    others = [entry for entry in index.shards if entry.url not in entries and (folder / entry.url).is_file()]
    save_folder_index(folder, FolderIndex((*others, *entries.values()), index.classes, _tokenizer(folder)))


def _tokenizer(folder: Path) -> TokenizerEntry | None:
    """The tokenizer that lies beside the shards; ValueError where it is damaged."""
    if not (folder / TOKENIZER_NAME).is_dir():
        return None
    return load_tokenizer(folder / TOKENIZER_NAME).entry
