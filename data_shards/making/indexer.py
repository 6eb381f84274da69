"""Sidecars and index.json for plain WebDataset tars that other programs built."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from configs.schema_training import Patterns
from data_shards.files import file_sha256, locked, set_aside
from data_shards.kinds import measure
from data_shards.making.writer import save_folder_index, save_sidecar, shard_entry
from data_shards.processes import map_unordered
from data_shards.progress import shards_progress
from data_shards.shards.index_file import (
    INDEX_NAME,
    TOKENIZER_NAME,
    FolderIndex,
    ShardEntry,
    TokenizerEntry,
    read_folder_index,
)
from data_shards.shards.patterns import local_shards
from data_shards.shards.sidecar import ROW, crc32, is_sidecar, sidecar
from data_shards.shards.tar import parse_sample, scan
from data_shards.text.tokenizer import load_tokenizer

_NAMED = 3
"""Most skipped members that are named for a shard."""


@dataclass(frozen=True)
class _IndexedShard:
    """Result of indexing one shard: its entry, or the problem that prevents it."""

    path: Path
    entry: ShardEntry | None = None
    key_hashes: np.ndarray | None = None
    """Hashes of the keys, uint64 [nsamples]. They find keys that two shards share without keeping the keys."""
    problem: str = ""
    set_aside: Path | None = None
    """New name of a file of the sidecar's name that was no sidecar."""
    skipped: tuple[str, ...] = ()
    """Names of members that are no sample's."""
    unusable: tuple[str, ...] = ()
    """Line for each sample whose length cannot be read."""


def file_size(path: Path) -> int:
    """Size of a file in bytes; 0 if it cannot be had."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def key_hashes(keys: Iterable[str]) -> np.ndarray:
    """64-bit hashes of the keys, uint64 [number of keys]."""
    encoded = (key.encode("utf-8", "surrogateescape") for key in keys)
    digests = b"".join(hashlib.blake2b(key, digest_size=8).digest() for key in encoded)
    return np.frombuffer(digests, "<u8")


def _index_shard(path: Path) -> _IndexedShard:
    """Scan one shard and write its sidecar, unless it has samples that readers would lose or merge."""
    try:
        return _scan_shard(path)
    except ValueError as error:
        return _IndexedShard(path, problem=str(error))
    except OSError as error:
        return _IndexedShard(path, problem=f"{path}: {error.strerror or error}")


def _scan_shard(path: Path) -> _IndexedShard:
    """Index one shard. Raises ValueError as `tar.scan`, and for samples of 4 GiB or more; OSError if unreadable."""
    if not path.is_file():  # a pipe would be waited for
        raise ValueError(f"{path}: {'no plain file' if path.exists() else 'no such file'}")
    skipped: list[str] = []
    spans, rows, unusable = scan(path, skipped), [], []
    with path.open("rb") as file:
        for span in spans:
            if span.size >= 2**32:
                raise ValueError(f"{path}: sample {span.key!r} has {span.size} bytes; a sample has to be below 4 GiB")
            file.seek(span.offset)
            blocks = file.read(span.size)
            length, reason = measure(parse_sample(blocks).members)
            rows.append((span.offset, span.size, crc32(blocks), length))
            if reason:
                unusable.append(f"key {span.key!r}: {reason}")
    table = np.array(rows, ROW)
    old = None if is_sidecar(sidecar(path)) else set_aside(sidecar(path))
    idx_sha256 = save_sidecar(path, table)
    entry = shard_entry(path, table, path.stat().st_size, file_sha256(path), idx_sha256)
    keys = key_hashes(span.key for span in spans)
    return _IndexedShard(path, entry, keys, "", old, tuple(skipped), tuple(unusable))


def _series_of(shard: tuple[Path, np.ndarray]) -> tuple[str, str]:
    """(folder, NAME) of FOLDER/NAME-000000.tar: shards of one series are read together."""
    return str(shard[0].parent), shard[0].name.rpartition("-")[0]


def shared_keys(shards: Iterable[tuple[Path, np.ndarray]]) -> dict[Path, str]:
    """Line per shard that has a key of another shard of its series. shards: (path, key hashes) pairs."""
    found: dict[Path, str] = {}
    for _, group in groupby(sorted(shards, key=lambda shard: (_series_of(shard), shard[0])), _series_of):
        members = list(group)
        hashes, counts = np.unique(np.concatenate([keys for _, keys in members]), return_counts=True)
        repeated = hashes[counts > 1]
        if repeated.size:
            found |= {
                path: _shared_keys_line(path, keys, repeated, members)
                for path, keys in members
                if np.isin(keys, repeated).any()
            }
    return found


def _shared_keys_line(path: Path, keys: np.ndarray, repeated: np.ndarray, shards: list[tuple[Path, np.ndarray]]) -> str:
    """Line about the keys that a shard shares with others."""
    rows = np.flatnonzero(np.isin(keys, repeated))
    other = next(place for place, others in shards if place != path and keys[rows[0]] in others)
    return (
        f"{path}: {len(rows)} of its keys are in other shards too, as {scan(path)[rows[0]].key!r} in {other}: other "
        f"readers may merge such samples; give every sample a key of its own"
    )


def index_shards(shards: Patterns) -> tuple[list[str], list[str]]:
    """Write the sidecars and index.json of the shards that `shards` names.

    Returns (lines about the indexed shards, one line per shard that cannot be indexed). A shard cannot be indexed if
    `tar.scan` refuses it, or if it shares a key with another shard of its series. Its entry in index.json stays as it
    was.
    """
    paths = local_shards(shards, promised=False)
    sizes = {path: file_size(path) for path in paths}
    found = []
    with shards_progress("index", sum(sizes.values()), len(paths)) as progress:
        for shard in map_unordered(_index_shard, paths, None):
            found.append(shard)
            progress.add(sizes[shard.path], shard.entry.nsamples if shard.entry else 0)
    problems = {shard.path: shard.problem for shard in found if shard.problem}
    problems |= shared_keys((shard.path, shard.key_hashes) for shard in found if shard.key_hashes is not None)
    good = {shard.path: shard.entry for shard in found if shard.entry and shard.path not in problems}
    remarks = [line for shard in sorted(found, key=lambda shard: shard.path) for line in _remarks(shard)]
    return [*remarks, *_save_entries(good)], [problems[path] for path in sorted(problems)]


def _remarks(shard: _IndexedShard) -> list[str]:
    """Lines about what of a shard is not read, and about the file that was in the sidecar's place."""
    lines, samples = [], shard.entry.nsamples if shard.entry else 0
    if shard.set_aside:
        lines.append(f"warning: {sidecar(shard.path)} was no sidecar: it is now {shard.set_aside}")
    if shard.skipped:
        more = ", ..." if len(shard.skipped) > _NAMED else ""
        names = ", ".join(map(repr, shard.skipped[:_NAMED]))
        lines.append(f"{shard.path}: skipped {len(shard.skipped)} members that are hidden or no KEY.ext: {names}{more}")
    if shard.unusable:
        number = "none of its" if len(shard.unusable) == samples else f"{len(shard.unusable)} of its"
        usable = "can be used" if len(shard.unusable) == samples else "cannot be used"
        lines.append(f"warning: {shard.path}: {number} {samples} samples {usable}, as {shard.unusable[0]}")
    return lines


def _save_entries(good: dict[Path, ShardEntry]) -> list[str]:
    """Put the entries into index.json of their folders; returns a line per folder, and warnings."""
    paths = sorted(good)
    lines = [f"warning: {path} is empty: 0 samples" for path in paths if not good[path].nsamples]
    for folder, group in groupby(paths, key=lambda path: path.parent):
        entries = {path.name: good[path] for path in group}
        with locked(folder):
            lines += _merge_entries(folder, entries)
        samples = sum(entry.nsamples for entry in entries.values())
        lines.append(f"{folder}: indexed {samples:,} samples in {len(entries)} shards")
    return lines


def _merge_entries(folder: Path, entries: dict[str, ShardEntry]) -> list[str]:
    """Put the entries into the folder's index.json. Entries of other shards that exist stay.

    Returns a warning if there was an index.json that is damaged or another program's: it is set aside.
    """
    lines = []
    try:
        index = read_folder_index(folder)
    except ValueError:
        index, old = FolderIndex(), set_aside(folder / INDEX_NAME)
        lines = [f"warning: {folder / INDEX_NAME} was damaged or another program's: it is now {old}; class names and "
                 f"shards that only it has are not taken over"]  # fmt: skip
    others = [entry for entry in index.shards if entry.url not in entries and (folder / entry.url).is_file()]
    save_folder_index(folder, FolderIndex((*others, *entries.values()), index.classes, _tokenizer(folder)))
    return lines


def _tokenizer(folder: Path) -> TokenizerEntry | None:
    """The tokenizer beside the shards; None if there is none. Raises ValueError if it is damaged."""
    if not (folder / TOKENIZER_NAME).is_dir():
        return None
    return load_tokenizer(folder / TOKENIZER_NAME).entry
