"""The sidecar index: which samples a data set has, and where their bytes are.

train-000000.tar        plain tar
train-000000.idx.npy    a row per sample: offset, size, crc, length
index.json              the shards of the folder (readable by wids): counts, sizes, checksums, classes, the tokenizer
tokenizer/              text: what the ids of the shards are
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import io
import json
import math
import mmap
import os
import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import braceexpand
import numpy as np

from configs.schema import DataConfig, Patterns
from data_shards.cache import Cache
from data_shards.storage import Storage, beside, folder_of, is_remote, local_path, name_of, storage_of

ROW = np.dtype([("offset", "<u8"), ("size", "<u4"), ("crc", "<u4"), ("length", "<u4")])
"""offset: first byte of the sample's first header; size: bytes to the end of its last padding; crc: zlib.crc32 of those
bytes; length: what samples are bucketed by (images: pixels / 1000, rounded up; recordings: the feature encoder's
frames; text: tokens), 0 where unreadable."""

INDEX_NAME = "index.json"
TOKENIZER_NAME = "tokenizer"
"""Folder of the tokenizer beside shards of text."""
REMEDY = "./run.sh shards index shards="


def _npy(rows: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, rows)
    return buffer.getvalue()


_SIDECAR_START = len(_npy(np.zeros(0, ROW)))  # the header, whatever the number of rows


@dataclass(frozen=True)
class ShardEntry:
    """One shard in index.json; the names are those of wids, then ours."""

    url: str
    nsamples: int
    filesize: int
    sha256: str
    idx_sha256: str
    length_sum: int
    length_max: int


@dataclass(frozen=True)
class TokenizerEntry:
    """What the ids of text shards are, in index.json."""

    sha256: str
    vocab_size: int


@dataclass(frozen=True)
class FolderIndex:
    """The content of one index.json."""

    shards: tuple[ShardEntry, ...] = ()
    classes: tuple[str, ...] = ()
    tokenizer: TokenizerEntry | None = None


def sidecar(shard: Path) -> Path:
    """Path of a shard's sidecar."""
    return shard.with_name(sidecar_name(shard.name))


def sidecar_name(shard: str) -> str:
    """Name of a shard's sidecar."""
    return shard.removesuffix(".tar") + ".idx.npy"


def sidecar_size(nsamples: int) -> int:
    """Bytes of a sidecar."""
    return _SIDECAR_START + nsamples * ROW.itemsize


def read_folder_index(folder: Path) -> FolderIndex:
    """Contents of the folder's index.json, empty where there is none; ValueError where it is not one of ours."""
    path = folder / INDEX_NAME
    return _parse(path.read_bytes(), str(path)) if path.exists() else FolderIndex()


def remote_folder_index(folder: str, storage: Storage) -> FolderIndex:
    """The same of a remote folder."""
    location = beside(folder, INDEX_NAME)
    try:
        return _parse(storage.fetch(location), location)
    except FileNotFoundError:
        return FolderIndex()
    except OSError as error:
        raise ValueError(str(error)) from error


def _parse(text: bytes, name: str) -> FolderIndex:
    try:
        content = json.loads(text)
        shards = tuple(_sound(ShardEntry(**entry)) for entry in content["shardlist"])
        tokenizer = TokenizerEntry(**content["tokenizer"]) if content.get("tokenizer") else None
        if tokenizer and not (_is_sha256(tokenizer.sha256) and type(tokenizer.vocab_size) is int):
            raise ValueError(f"not a tokenizer: {tokenizer}")
        classes = tuple(content.get("classes", ()))
        if not all(type(name) is str for name in classes) or not isinstance(content.get("totals", {}), dict):
            raise ValueError("classes are no names, or totals no object")
        return FolderIndex(shards, classes, tokenizer)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{name} is not an index of ours ({error!r}); make it with {REMEDY}{name[:-11]}") from error


def _sound(entry: ShardEntry) -> ShardEntry:
    """The entry; ValueError where it cannot be of a shard beside its index.json."""
    numbers = (entry.nsamples, entry.filesize, entry.length_sum, entry.length_max)
    sound = all(type(number) is int and number >= 0 for number in numbers) and entry.filesize > 0
    if not (sound and _is_sha256(entry.sha256) and _is_sha256(entry.idx_sha256) and type(entry.url) is str):
        raise ValueError(f"not the entry of a shard: {entry}")
    if "/" in entry.url or entry.url in ("", ".", ".."):
        raise ValueError(f"{entry.url!r} is not the name of a file beside it")
    return entry


def _is_sha256(value: object) -> bool:
    return type(value) is str and re.fullmatch("[0-9a-f]{64}", value) is not None


def index_json(index: FolderIndex) -> str:
    """The text of an index.json; the same index gives the same text."""
    entries = sorted(index.shards, key=lambda entry: entry.url)
    totals = {key: sum(getattr(entry, key) for entry in entries) for key in ("nsamples", "filesize", "length_sum")}
    content = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": ",".join(sorted({entry.url.rpartition("-")[0] or entry.url for entry in entries})),
        "classes": list(index.classes),
        **({"tokenizer": asdict(index.tokenizer)} if index.tokenizer else {}),
        "shardlist": [asdict(entry) for entry in entries],
        "totals": {"shards": len(entries), **totals},
    }
    return json.dumps(content, indent=1) + "\n"


class Folders:
    """The index.json of each folder, read once."""

    def __init__(self, storage: Storage | None = None) -> None:
        self._storage = storage or storage_of(DataConfig())
        self._read: dict[str, FolderIndex] = {}

    def __getitem__(self, folder: str) -> FolderIndex:
        """ValueError where it is none of ours, or where its store cannot be reached."""
        if folder not in self._read:
            remote = is_remote(folder)
            self._read[folder] = (
                remote_folder_index(folder, self._storage) if remote else read_folder_index(local_path(folder))
            )
        return self._read[folder]


def _names_in(folder: str, promised: bool, folders: Folders) -> set[str]:
    """Tars of the folder, and those that index.json promises; of remote folders these alone."""
    there = set() if is_remote(folder) else {path.name for path in local_path(folder).glob("*.tar")}
    return there | {entry.url for entry in folders[folder].shards} if promised else there


def _expand(pattern: str, promised: bool, folders: Folders) -> list[str]:
    """Shards of one pattern without braces."""
    if is_remote(pattern):
        return _expand_remote(pattern, folders)
    path = local_path(pattern)
    if path.is_dir():
        return [str(path / name) for name in sorted(_names_in(str(path), promised, folders))]
    if path.exists() or not any(sign in pattern for sign in "*?["):
        return [str(path)]
    found = [str(path.parent)] if path.parent.is_dir() else sorted(glob.glob(str(path.parent)))
    matches = {folder: fnmatch.filter(_names_in(folder, promised, folders), path.name) for folder in found}
    return [str(Path(folder) / name) for folder, names in matches.items() for name in sorted(names)]


def _expand_remote(pattern: str, folders: Folders) -> list[str]:
    """Stores of objects need not be able to list them, so index.json says what there is."""
    name = name_of(pattern)
    if name.endswith(".tar") and not any(sign in name for sign in "*?["):
        return [pattern]
    folder = folder_of(pattern) if name.endswith(".tar") or not name else pattern
    glob_name = name if name.endswith(".tar") else "*"
    return [beside(folder, url) for url in sorted(fnmatch.filter([e.url for e in folders[folder].shards], glob_name))]


def _patterns(shards: Patterns) -> tuple[str, ...]:
    return (shards,) if isinstance(shards, str) else shards


def _without_braces(item: str) -> Iterable[str]:
    """The patterns that braces stand for; a file or folder that has braces in its name is meant itself."""
    folder, slash, name = item.rpartition("/")
    if is_remote(item):
        return braceexpand.braceexpand(item)
    if not item or local_path(item).exists():
        return (item,)
    if folder and local_path(folder).is_dir():
        return (folder + slash + pattern for pattern in braceexpand.braceexpand(name))
    return braceexpand.braceexpand(item)


def _expand_item(item: str, promised: bool, folders: Folders) -> list[str]:
    """Shards of one item of a list, whose braces are expanded; ValueError where nothing matches."""
    patterns = _without_braces(item)
    paths = list(dict.fromkeys(path for pattern in patterns if pattern for path in _expand(pattern, promised, folders)))
    if not paths:
        raise ValueError(
            f"no shards match {item!r}; give a folder, a glob or braces, as /data/train-{{000000..000146}}.tar, "
            f"or build some: ./run.sh shards build source=imagefolder input=DIR output=DIR"
        )
    return paths


def expand(shards: Patterns, promised: bool = True, folders: Folders | None = None) -> list[str]:
    """The shards that folders, globs or braces name, without repetition, in a fixed order.

    Those that (where `promised`) index.json or the braces name are among them even if there is no such file.
    Raises ValueError where nothing matches.
    """
    folders = folders or Folders()
    items = _patterns(shards) or ("",)
    found = (path for item in items for path in _expand_item(item, promised, folders))
    once = {path if is_remote(path) else os.path.realpath(path): path for path in reversed([*found])}
    return list(reversed(once.values()))


def resolve(shards: Patterns, promised: bool = True, folders: Folders | None = None) -> list[str]:
    """The same, where all local ones exist; ValueError names the first that does not."""
    paths = expand(shards, promised, folders)
    if missing := [path for path in paths if not is_remote(path) and not local_path(path).is_file()]:
        raise ValueError(
            f"no shards match: {len(missing)} of the {len(paths)} files that {shards!r} names do not exist, "
            f"the first: {missing[0]}"
        )
    return paths


def local_shards(shards: Patterns, promised: bool = True) -> list[Path]:
    """As `expand`, for commands that need the files themselves; ValueError for remote ones."""
    paths = expand(shards, promised)
    if remote := [path for path in paths if is_remote(path)]:
        raise ValueError(f"{remote[0]} is remote: run this where the files are, and copy what it writes beside them")
    return [local_path(path) for path in paths]


def read_rows(shard: Path, mapped: bool = True) -> np.ndarray:
    """The shard's rows, structured [nsamples] of dtype ROW. ValueError where there is no sound sidecar."""
    return _load_rows(sidecar(shard), str(shard), mapped)


@lru_cache(maxsize=4096)
def _header(nsamples: int) -> bytes:
    """What a sidecar of so many rows begins with."""
    buffer = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(ROW)
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": (nsamples,)})
    return buffer.getvalue()


def _map_rows(path: Path) -> np.ndarray | None:
    """A sidecar's rows, mapped in a tenth of the time that numpy takes; None where it is not as we write them."""
    with open(path, "rb", buffering=0) as file:
        count, rest = divmod(os.fstat(file.fileno()).st_size - _SIDECAR_START, ROW.itemsize)
        if count <= 0 or rest or file.read(_SIDECAR_START) != _header(count):
            return None
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), ROW, offset=_SIDECAR_START)


def _load_rows(path: Path, shard: str, mapped: bool = True) -> np.ndarray:
    try:
        rows = _map_rows(path) if mapped else None
        if rows is None:
            rows = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{shard} has no sidecar {path.name}; make it: {REMEDY}{shard}") from None
    except Exception as error:  # numpy parses the header as Python, which raises anything
        raise ValueError(f"{path} is damaged ({_first_line(error)}); make it anew: {REMEDY}{shard}") from error
    if rows.dtype != ROW or rows.ndim != 1:
        raise ValueError(f"{path} is not a sidecar ({rows.dtype}); make it anew: {REMEDY}{shard}")
    return rows


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


@dataclass(frozen=True)
class Index:
    """The samples of a list of shards; a sample's id is its position in the concatenation of the shards."""

    paths: tuple[str, ...]
    """Location of each shard."""
    entries: tuple[ShardEntry, ...]
    classes: tuple[str, ...]
    warnings: tuple[str, ...]
    """What is wrong with the files and need not stop a run."""
    tokenizer: TokenizerEntry | None
    """What the ids of text are; None for other modalities."""
    storage: Storage
    """How those of the shards that are remote are read."""
    items: tuple[int, ...] = ()
    """Number of shards of each item of the list of patterns."""

    @cached_property
    def cache(self) -> Cache:
        """Where pieces of remote shards are kept; ValueError where that folder cannot be written."""
        return Cache(self.storage.cache_dir, self.storage.cache_bytes)

    def rows(self, shard: int) -> np.ndarray:
        """Rows of a shard, mapped, structured [nsamples] of dtype ROW; fetched, where the shard is remote.

        Raises ValueError where there is no sound sidecar, or where it contradicts index.json; OSError where it cannot
        be fetched.
        """
        location, entry = self.paths[shard], self.entries[shard]
        rows = self._remote_rows(location, entry) if is_remote(location) else read_rows(local_path(location))
        if len(rows) != entry.nsamples:
            raise ValueError(
                f"the sidecar of {location} has {len(rows)} rows, index.json says {entry.nsamples}; make both anew: "
                f"{REMEDY}{location}"
            )
        return rows

    def _remote_rows(self, location: str, entry: ShardEntry) -> np.ndarray:
        url = beside(folder_of(location), sidecar_name(entry.url))

        def fetch() -> bytes:
            try:
                data = self.storage.fetch(url)
            except FileNotFoundError:
                raise ValueError(f"{location} has no sidecar {name_of(url)}; make it, and copy it there") from None
            if len(data) != size or hashlib.sha256(data).hexdigest() != entry.idx_sha256:
                raise ValueError(f"{url} is not the sidecar that index.json promises; copy it there again")
            return data

        identity, size = f"{url} {entry.idx_sha256}", sidecar_size(entry.nsamples)
        path, data = self.cache.get(identity, size, fetch)
        if data is not None:
            return np.load(io.BytesIO(data), allow_pickle=False)
        assert path
        try:  # every time: a row that is wrong on one node alone would make its steps others
            if hashlib.sha256(path.read_bytes()).hexdigest() == entry.idx_sha256:
                return _load_rows(path, location)
        except (FileNotFoundError, ValueError):  # removed to make room; or its name in the cache is that of another
            pass
        self.cache.drop(identity)
        return np.load(io.BytesIO(fetch()), allow_pickle=False)

    @cached_property
    def counts(self) -> np.ndarray:
        """Samples of each shard, int64 [shards]."""
        return np.array([entry.nsamples for entry in self.entries], np.int64)

    @cached_property
    def starts(self) -> np.ndarray:
        """Id of each shard's first sample, int64 [shards]."""
        return np.cumsum(self.counts) - self.counts

    @property
    def samples(self) -> int:
        return int(self.counts.sum())

    @property
    def mean_size(self) -> float:
        """Mean bytes of a sample in its shard."""
        return sum(entry.filesize for entry in self.entries) / self.samples

    def chunk(self, chunk_bytes: int) -> int:
        """Samples of a chunk of about so many bytes."""
        return max(1, math.ceil(chunk_bytes / self.mean_size))

    @cached_property
    def digest(self) -> str:
        """Hash of what the order depends on: names, counts, sizes and sidecars, not the folder."""
        parts = [(entry.url, entry.nsamples, entry.filesize, entry.idx_sha256) for entry in self.entries]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    def locate(self, sample: int) -> tuple[int, int]:
        """Id of a sample -> (shard, row)."""
        shard = bisect_right(self._starts, sample) - 1
        return shard, sample - self._starts[shard]

    @cached_property
    def _starts(self) -> list[int]:
        return self.starts.tolist()


def _entries(paths: Iterable[str], folders: Folders) -> tuple[list[ShardEntry], dict[str, FolderIndex]]:
    """Entry of each shard, and the index of each of their folders."""
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
    """The tokenizer of all folders; ValueError where they have different ones."""
    owners = {index.tokenizer: folder for folder, index in folders.items()}
    if len(owners) > 1:
        (first, folder), (second, other) = list(owners.items())[:2]
        types = [f"{entry.vocab_size} types" if entry else "no tokenizer" for entry in (first, second)]
        raise ValueError(
            f"the shards of {shards!r} have different tokenizers: {folder} ({types[0]}), {other} ({types[1]}); build "
            f"them with the same one: ./run.sh shards build ... tokenizer={beside(folder, TOKENIZER_NAME)}"
        )
    return next(iter(owners))


def _check_shard(path: Path, entry: ShardEntry) -> list[str]:
    """What deserves a warning: no samples, a changed size. ValueError where the sidecar is of another number."""
    warnings = [] if entry.nsamples else [f"{path} is empty: 0 samples"]
    # Two calls of stat for a shard: opening thousands of sidecars takes seconds.
    if not _has_size(sidecar(path), sidecar_size(entry.nsamples)) and len(rows := read_rows(path)) != entry.nsamples:
        raise ValueError(
            f"{sidecar(path)} has {len(rows)} rows, index.json says {entry.nsamples}; make both anew: {REMEDY}{path}"
        )
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
    """The index of the shards that `data.shards` names (see `resolve`), checked against the files that are local.

    Patterns alone are read with the defaults of `DataConfig`. Raises ValueError where an index or a sidecar is missing
    or damaged, a store cannot be reached, an item of a list with weights names a shard of another, or where there are
    no samples at all.
    """
    data = data if isinstance(data, DataConfig) else DataConfig(shards=data)
    shards, folders = data.shards, Folders(storage_of(data))
    paths = resolve(shards, folders=folders)
    entries, used = _entries(paths, folders)
    class_lists = {index.classes for index in used.values() if index.classes}
    if len(class_lists) > 1:
        raise ValueError(f"the shards of {shards!r} have different classes; their labels cannot be mixed")
    warnings = [
        line
        for path, entry in zip(paths, entries, strict=True)
        if not is_remote(path)
        for line in _check_shard(local_path(path), entry)
    ]
    tokenizer = common_tokenizer(shards, used)
    items = _items(shards, paths, folders) if data.weights else (len(paths),)
    classes = next(iter(class_lists), ())
    index = Index(tuple(paths), tuple(entries), classes, tuple(warnings), tokenizer, storage_of(data), items)
    if not index.samples:
        raise ValueError(f"no samples in the {len(paths)} shards of {shards!r}; build them again")
    return index


def _items(shards: Patterns, paths: list[str], folders: Folders) -> tuple[int, ...]:
    """Number of shards of each item of a list; ValueError where two items name the same shard."""
    counts = tuple(len(_expand_item(item, True, folders)) for item in _patterns(shards))
    if sum(counts) != len(paths):
        raise ValueError(f"data.shards={shards!r}: with data.weights, no shard may be named by two items of the list")
    return counts
