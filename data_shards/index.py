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
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import braceexpand
import numpy as np

ROW = np.dtype([("offset", "<u8"), ("size", "<u4"), ("crc", "<u4"), ("length", "<u4")])
"""offset: first byte of the sample's first header; size: bytes to the end of its last padding; crc: zlib.crc32 of those
bytes; length: what samples are bucketed by (images: pixels / 1000, rounded up; recordings: the feature encoder's
frames; text: tokens), 0 where unreadable."""

INDEX_NAME = "index.json"
TOKENIZER_NAME = "tokenizer"
"""Folder of the tokenizer beside shards of text."""
REMEDY = "./run.sh shards index shards="


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
    return shard.with_name(shard.name.removesuffix(".tar") + ".idx.npy")


def read_folder_index(folder: Path) -> FolderIndex:
    """Contents of the folder's index.json, empty where there is none; ValueError where it is not one of ours."""
    path = folder / INDEX_NAME
    if not path.exists():
        return FolderIndex()
    try:
        content = json.loads(path.read_text())
        shards = tuple(ShardEntry(**entry) for entry in content["shardlist"])
        tokenizer = TokenizerEntry(**content["tokenizer"]) if content.get("tokenizer") else None
        return FolderIndex(shards, tuple(content.get("classes", ())), tokenizer)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not an index of ours ({error!r}); make it with {REMEDY}{folder}") from error


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


def _names_in(folder: Path, promised: bool) -> set[str]:
    """Tars of the folder, and those that index.json promises."""
    there = {path.name for path in folder.glob("*.tar")}
    return there | {entry.url for entry in read_folder_index(folder).shards} if promised else there


def _expand(pattern: str, promised: bool) -> list[Path]:
    """Shards of one pattern without braces."""
    path = Path(os.path.expanduser(pattern))
    if path.is_dir():
        return [path / name for name in sorted(_names_in(path, promised))]
    if not any(sign in pattern for sign in "*?["):
        return [path]
    folders = [Path(folder) for folder in sorted(glob.glob(str(path.parent)))]
    matches = {folder: fnmatch.filter(_names_in(folder, promised), path.name) for folder in folders}
    return [folder / name for folder, names in matches.items() for name in sorted(names)]


def expand(shards: str, promised: bool = True) -> list[Path]:
    """The shards that a folder, a glob or braces name, without repetition, in a fixed order.

    Those that (where `promised`) index.json or the braces name are among them even if there is no such file.
    Raises ValueError where nothing matches.
    """
    patterns = braceexpand.braceexpand(shards) if shards else ()
    paths = list(dict.fromkeys(path for pattern in patterns for path in _expand(pattern, promised)))
    if not paths:
        raise ValueError(
            f"no shards match {shards!r}; give a folder, a glob or braces, as /data/train-{{000000..000146}}.tar, "
            f"or build some: ./run.sh shards build source=imagefolder input=DIR output=DIR"
        )
    return paths


def resolve(shards: str, promised: bool = True) -> list[Path]:
    """The same, where all of them exist; ValueError names the first that does not."""
    paths = expand(shards, promised)
    if missing := [path for path in paths if not path.is_file()]:
        raise ValueError(
            f"no shards match: {len(missing)} of the {len(paths)} files that {shards!r} names do not exist, "
            f"the first: {missing[0]}"
        )
    return paths


def read_rows(shard: Path, mmap: bool = True) -> np.ndarray:
    """The shard's rows, structured [nsamples] of dtype ROW. ValueError where there is no sound sidecar."""
    try:
        rows = np.load(sidecar(shard), mmap_mode="r" if mmap else None, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{shard} has no sidecar {sidecar(shard).name}; make it: {REMEDY}{shard}") from None
    except (ValueError, EOFError) as error:
        raise ValueError(f"{sidecar(shard)} is damaged ({error}); make it anew: {REMEDY}{shard}") from error
    if rows.dtype != ROW or rows.ndim != 1:
        raise ValueError(f"{sidecar(shard)} is not a sidecar ({rows.dtype}); make it anew: {REMEDY}{shard}")
    return rows


@dataclass(frozen=True)
class Index:
    """The samples of a list of shards; a sample's id is its position in the concatenation of the shards."""

    paths: tuple[Path, ...]
    entries: tuple[ShardEntry, ...]
    classes: tuple[str, ...]
    warnings: tuple[str, ...]
    """What is wrong with the files and need not stop a run."""
    tokenizer: TokenizerEntry | None = None
    """What the ids of text are; None for other modalities."""

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer's files are, if there is one; the same in all folders of the shards."""
        return self.paths[0].parent / TOKENIZER_NAME

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

    @cached_property
    def digest(self) -> str:
        """Hash of what the order depends on: names, counts, sizes and sidecars, not the folder."""
        parts = [(entry.url, entry.nsamples, entry.filesize, entry.idx_sha256) for entry in self.entries]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    def locate(self, sample: int) -> tuple[int, int]:
        """Id of a sample -> (shard, row)."""
        shard = int(np.searchsorted(self.starts, sample, "right")) - 1
        return shard, sample - int(self.starts[shard])


def _entries(paths: Iterable[Path]) -> tuple[list[ShardEntry], dict[Path, FolderIndex]]:
    """Entry of each shard, and the index of each of their folders."""
    folders: dict[Path, FolderIndex] = {}
    known: dict[Path, ShardEntry] = {}
    entries = []
    for path in paths:
        if path.parent not in folders:
            folders[path.parent] = read_folder_index(path.parent)
            known |= {path.parent / entry.url: entry for entry in folders[path.parent].shards}
        if path not in known:
            raise ValueError(f"{path} is not in an {INDEX_NAME} beside it; make one: {REMEDY}{path.parent}")
        entries.append(known[path])
    return entries, folders


def _common_tokenizer(shards: str, folders: dict[Path, FolderIndex]) -> TokenizerEntry | None:
    """The tokenizer of all folders; ValueError where they have different ones."""
    owners = {index.tokenizer: folder for folder, index in folders.items()}
    if len(owners) > 1:
        (first, folder), (second, other) = list(owners.items())[:2]
        types = [f"{entry.vocab_size} types" if entry else "no tokenizer" for entry in (first, second)]
        raise ValueError(
            f"the shards of {shards!r} have different tokenizers: {folder} ({types[0]}), {other} ({types[1]}); "
            f"build them with the same one: ./run.sh shards build ... tokenizer={folder / TOKENIZER_NAME}"
        )
    return next(iter(owners))


def tokenizer_of(shards: str) -> tuple[TokenizerEntry, Path] | None:
    """What the ids of text shards are, by their index.json alone, and the folder of its files; None where it is not
    known: no such shards, no index, or no text. ValueError where they have different ones."""
    try:
        paths = expand(shards)
    except ValueError:
        return None
    entry = _common_tokenizer(shards, {path.parent: read_folder_index(path.parent) for path in paths})
    return (entry, paths[0].parent / TOKENIZER_NAME) if entry else None


def _check_shard(path: Path, entry: ShardEntry) -> list[str]:
    """What deserves a warning: no samples, a changed size. ValueError where the sidecar contradicts index.json."""
    rows = read_rows(path)
    if len(rows) != entry.nsamples:
        raise ValueError(
            f"{sidecar(path)} has {len(rows)} rows, index.json says {entry.nsamples}; make both anew: {REMEDY}{path}"
        )
    warnings = [] if len(rows) else [f"{path} is empty: 0 samples"]
    if (size := path.stat().st_size) != entry.filesize:
        lost = int((rows["offset"] + rows["size"] > size).sum())
        warnings.append(
            f"{path} has {size} bytes, its index says {entry.filesize}: {lost} of its {len(rows)} samples lie behind "
            f"its end and will be replaced by others; see ./run.sh shards validate shards={path}"
        )
    return warnings


def load_index(shards: str) -> Index:
    """The index of the shards that `shards` names (see `resolve`), checked against the files.

    Raises ValueError where an index or a sidecar is missing or damaged, or where there are no samples at all.
    """
    paths = resolve(shards)
    entries, folders = _entries(paths)
    class_lists = {index.classes for index in folders.values() if index.classes}
    if len(class_lists) > 1:
        raise ValueError(f"the shards of {shards!r} have different classes; their labels cannot be mixed")
    warnings = [line for path, entry in zip(paths, entries, strict=True) for line in _check_shard(path, entry)]
    tokenizer = _common_tokenizer(shards, folders)
    index = Index(tuple(paths), tuple(entries), next(iter(class_lists), ()), tuple(warnings), tokenizer)
    if not index.samples:
        raise ValueError(f"no samples in the {len(paths)} shards of {shards!r}; build them again")
    return index
