"""Sidecars and index.json for tars that others built (plain WebDataset)."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from tqdm import tqdm

from configs.schema import Patterns
from data_shards.index import (
    ROW,
    TOKENIZER_NAME,
    FolderIndex,
    ShardEntry,
    TokenizerEntry,
    local_shards,
    read_folder_index,
)
from data_shards.processes import each
from data_shards.tar import parse_sample, scan
from data_shards.tokenizer import load_tokenizer
from data_shards.writer import entry_of, length_of, locked, save_folder_index, save_sidecar


@dataclass(frozen=True)
class _Indexed:
    """A shard whose sidecar is written."""

    path: Path
    entry: ShardEntry
    key_hashes: np.ndarray
    """uint64 [nsamples]: to find keys that two shards share without keeping the keys."""


def file_sha256(path: Path) -> str:
    """sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def _key_hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


def _index_shard(path: Path) -> _Indexed:
    """Scan one shard and write its sidecar; ValueError where it has what readers would lose or merge."""
    spans, rows = scan(path), []
    with path.open("rb") as file:
        for span in spans:
            if span.size >= 2**32:
                raise ValueError(f"{path}: sample {span.key!r} has {span.size} bytes; a sample has to be below 4 GiB")
            file.seek(span.offset)
            blocks = file.read(span.size)
            _, members = parse_sample(blocks)
            rows.append((span.offset, span.size, zlib.crc32(blocks), length_of(members)))
    table = np.array(rows, ROW)
    idx_sha256 = save_sidecar(path, table)
    entry = entry_of(path, table, path.stat().st_size, file_sha256(path), idx_sha256)
    return _Indexed(path, entry, np.array([_key_hash(span.key) for span in spans], np.uint64))


def _check_unique(shards: list[_Indexed]) -> None:
    """ValueError where two shards have a sample of the same key."""
    hashes, counts = np.unique(np.concatenate([shard.key_hashes for shard in shards]), return_counts=True)
    if not (repeated := hashes[counts > 1]).size:
        return
    owners = [
        (shard.path, scan(shard.path)[row].key)
        for shard in shards
        for row in np.flatnonzero(shard.key_hashes == repeated[0])
    ]
    (first, key), (second, _) = owners[:2]
    raise ValueError(
        f"{len(repeated)} keys are in two shards, as {key!r} in {first} and {second}: other readers may merge such "
        f"samples; give every sample a key of its own"
    )


def index_shards(shards: Patterns) -> list[str]:
    """Write the sidecars and index.json of the shards that `shards` names; returns lines that say what was done.

    Raises ValueError as `tar.scan` does, and where two shards share a key.
    """
    paths = local_shards(shards, promised=False)
    bar = tqdm(each(_index_shard, paths, None), total=len(paths), unit=" shards", disable=None)
    indexed = sorted(bar, key=lambda shard: shard.path)
    _check_unique(indexed)
    lines = [f"warning: {shard.path} is empty: 0 samples" for shard in indexed if not shard.entry.nsamples]
    for folder, group in groupby(indexed, key=lambda shard: shard.path.parent):
        entries = {shard.path.name: shard.entry for shard in group}
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
