"""The index of a data set: its samples, and the place of their bytes.

train-000000.tar        plain tar
train-000000.idx.npy    a row per sample: offset, size, crc, length
index.json              the shards of the folder (readable by wids): counts, sizes, checksums, classes, the tokenizer
tokenizer/              text: the tokenizer that made the shards' token ids
"""

from __future__ import annotations

import hashlib
import io
import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from configs.schema_training import DataConfig, Patterns
from data_shards.shards.cache import Cache
from data_shards.shards.index_file import (
    INDEX_NAME,
    REMEDY,
    TOKENIZER_NAME,
    FolderIndex,
    FolderIndexes,
    ShardEntry,
    TokenizerEntry,
)
from data_shards.shards.patterns import check_one_name, expand_item, patterns_of, resolve
from data_shards.shards.sidecar import load_rows, read_rows, sidecar, sidecar_name, sidecar_size
from data_shards.shards.storage import (
    Storage,
    Unreachable,
    folder_of,
    is_remote,
    join_location,
    local_path,
    name_of,
    storage_of,
)
from data_shards.shards.verified import check_sidecars


@dataclass(frozen=True)
class Index:
    """The samples of a list of shards. A sample's id is its position in the concatenation of the shards."""

    paths: tuple[str, ...]
    """Location of each shard."""
    entries: tuple[ShardEntry, ...]
    classes: tuple[str, ...]
    warnings: tuple[str, ...]
    """Problems with the files that do not stop a run."""
    tokenizer: TokenizerEntry | None
    """The tokenizer that made the token ids; None for other modalities than text."""
    storage: Storage
    """Settings for reading remote shards."""
    items: tuple[int, ...] = ()
    """Number of shards per item of the list of patterns."""

    @cached_property
    def cache(self) -> Cache:
        """The cache for pieces of remote shards. Raises ValueError if its folder cannot be written."""
        return Cache(self.storage.cache_dir, self.storage.cache_bytes)

    def rows(self, shard: int) -> np.ndarray:
        """Rows of a shard, structured [nsamples] of dtype ROW, memory-mapped. A remote shard's sidecar is fetched.

        Raises ValueError if the sidecar is missing, damaged or contradicts index.json; Unreachable if it cannot be had.
        """
        location, entry = self.paths[shard], self.entries[shard]
        try:
            rows = self._remote_rows(location, entry) if is_remote(location) else _local_rows(local_path(location))
        except (FileNotFoundError, PermissionError) as error:
            raise Unreachable(f"the sidecar of {location}: {error}") from error
        if len(rows) != entry.nsamples:
            raise ValueError(
                f"the sidecar of {location} has {len(rows)} rows, index.json says {entry.nsamples}; make both anew: "
                f"{REMEDY}{location}"
            )
        return rows

    def _remote_rows(self, location: str, entry: ShardEntry) -> np.ndarray:
        url = join_location(folder_of(location), sidecar_name(entry.url))

        def fetch() -> bytes:
            try:
                data = self.storage.fetch(url)
            except FileNotFoundError:
                self.storage.fetch(join_location(folder_of(location), INDEX_NAME))  # fails too if all is gone
                raise ValueError(f"{location} has no sidecar {name_of(url)}; make it, and copy it there") from None
            if len(data) != size or hashlib.sha256(data).hexdigest() != entry.idx_sha256:
                raise ValueError(f"{url} is not the sidecar that index.json promises; copy it there again")
            return data

        identity, size = f"{url} {entry.idx_sha256}", sidecar_size(entry.nsamples)
        path, data = self.cache.get(identity, size, fetch)
        if data is not None:
            return np.load(io.BytesIO(data), allow_pickle=False)
        assert path
        try:  # checked every time: a row that is wrong on one node only would give that node other steps
            if hashlib.sha256(path.read_bytes()).hexdigest() == entry.idx_sha256:
                return load_rows(path, location)
        except (OSError, ValueError):  # removed to make room, damaged, or on a failing disk
            pass
        self.cache.drop(identity)
        return np.load(io.BytesIO(fetch()), allow_pickle=False)

    @cached_property
    def counts(self) -> np.ndarray:
        """Number of samples per shard, int64 [shards]."""
        return np.array([entry.nsamples for entry in self.entries], np.int64)

    @cached_property
    def starts(self) -> np.ndarray:
        """Id of the first sample per shard, int64 [shards]."""
        return np.cumsum(self.counts) - self.counts

    @property
    def samples(self) -> int:
        """Number of samples of all shards."""
        return int(self.counts.sum())

    @property
    def mean_size(self) -> float:
        """Mean size of a sample in its tar, in bytes."""
        return sum(entry.filesize for entry in self.entries) / self.samples

    def chunk(self, chunk_bytes: int) -> int:
        """Number of samples of a chunk of about `chunk_bytes` bytes, at least 1."""
        return max(1, math.ceil(chunk_bytes / self.mean_size))

    @cached_property
    def digest(self) -> str:
        """Hash of what the order depends on: the shards' names, counts, sizes and sidecars, not their folder."""
        parts = [(entry.url, entry.nsamples, entry.filesize, entry.idx_sha256) for entry in self.entries]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    def locate(self, sample: int) -> tuple[int, int]:
        """(shard, row) of the sample with this id."""
        shard = bisect_right(self._starts, sample) - 1
        return shard, sample - self._starts[shard]

    @cached_property
    def _starts(self) -> list[int]:
        return self.starts.tolist()


def _local_rows(shard: Path) -> np.ndarray:
    """Rows as `read_rows`. Raises FileNotFoundError if the sidecar, which was there at the start, is gone."""
    sidecar(shard).stat()
    return read_rows(shard)


def _shard_entries(paths: Iterable[str], folders: FolderIndexes) -> tuple[list[ShardEntry], dict[str, FolderIndex]]:
    """(entry of each shard, index of each folder that holds any).

    Raises ValueError for a shard that is not in its folder's index.json.
    """
    used: dict[str, FolderIndex] = {}
    known: dict[tuple[str, str], ShardEntry] = {}
    entries = []
    for path in paths:
        folder, name = folder_of(path), name_of(path)
        if folder not in used:
            used[folder] = folders[folder]
            known |= {(folder, entry.url): entry for entry in used[folder].shards}
        if (folder, name) not in known:
            raise ValueError(f"{path} is not in an {INDEX_NAME} beside it; make one: {REMEDY}{folder}")
        entries.append(known[folder, name])
    return entries, used


def common_tokenizer(shards: Patterns, folders: dict[str, FolderIndex]) -> TokenizerEntry | None:
    """The tokenizer shared by all folders. Raises ValueError if they have different ones."""
    owners = {index.tokenizer: folder for folder, index in folders.items()}
    if len(owners) > 1:
        (first, folder), (second, other) = list(owners.items())[:2]
        types = [f"{entry.vocab_size} types" if entry else "no tokenizer" for entry in (first, second)]
        raise ValueError(
            f"the shards of {shards!r} have different tokenizers: {folder} ({types[0]}), {other} ({types[1]}); build "
            f"them with the same one: ./run.sh shards build ... tokenizer={join_location(folder, TOKENIZER_NAME)}"
        )
    return next(iter(owners))


def _check_shard(path: Path, entry: ShardEntry) -> list[str]:
    """Warnings about a local shard, whose sidecar is sound: no samples, or a changed size."""
    warnings = [] if entry.nsamples else [f"{path} is empty: 0 samples"]
    if not _has_size(path, entry.filesize):
        rows, size = read_rows(path), path.stat().st_size
        lost = int((rows["offset"] + rows["size"] > size).sum())
        warnings.append(
            f"{path} has {size} bytes, its index says {entry.filesize}: {lost} of its {len(rows)} samples lie behind "
            f"its end and will be replaced by others; see ./run.sh shards validate shards={path}"
        )
    return warnings


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def load_index(data: DataConfig | Patterns) -> Index:
    """The index of the shards that `data.shards` names (see `resolve`), checked against the local files.

    Patterns alone are read with the defaults of `DataConfig`, and a folder may hold shards of several names. Raises
    ValueError if it does otherwise; if an index or a sidecar is missing or damaged; if a store refuses; if two items of
    a list with weights name the same shard; or if there are no samples at all. Raises Unreachable if a store does not
    answer or a file cannot be read.
    """
    one_name = isinstance(data, DataConfig)
    data = data if isinstance(data, DataConfig) else DataConfig(shards=data)
    shards, storage = data.shards, storage_of(data)
    folders = FolderIndexes(storage)
    if one_name:
        check_one_name(shards, folders)
    paths = resolve(shards, folders=folders)
    entries, used = _shard_entries(paths, folders)
    class_lists = {index.classes for index in used.values() if index.classes}
    if len(class_lists) > 1:
        raise ValueError(f"the shards of {shards!r} have different classes; their labels cannot be mixed")
    local = [(local_path(path), entry) for path, entry in zip(paths, entries, strict=True) if not is_remote(path)]
    check_sidecars(local, storage.cache_dir)
    warnings = [line for path, entry in local for line in _check_shard(path, entry)]
    tokenizer = common_tokenizer(shards, used)
    items = _item_counts(shards, paths, folders) if data.weights else (len(paths),)
    classes = next(iter(class_lists), ())
    index = Index(tuple(paths), tuple(entries), classes, tuple(warnings), tokenizer, storage, items)
    if not index.samples:
        raise ValueError(f"no samples in the {len(paths)} shards of {shards!r}; build them again")
    return index


def _item_counts(shards: Patterns, paths: list[str], folders: FolderIndexes) -> tuple[int, ...]:
    """Number of shards per item of a list. Raises ValueError if two items name the same shard."""
    counts = tuple(len(expand_item(item, True, folders)) for item in patterns_of(shards))
    if sum(counts) != len(paths):
        raise ValueError(f"data.shards={shards!r}: with data.weights, no shard may be named by two items of the list")
    return counts
