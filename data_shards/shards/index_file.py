"""index.json: the shards of a folder with counts, sizes, checksums, classes and tokenizer; readable by wids."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from configs.schema_training import DataConfig
from data_shards.shards.storage import Storage, Unreachable, is_remote, join_location, local_path, storage_of

INDEX_NAME = "index.json"
TOKENIZER_NAME = "tokenizer"
"""Name of the tokenizer's folder, which lies beside shards of text."""
REMEDY = "./run.sh shards index shards="
_CHECKSUM = "content_sha256"
_KEYS = {"__kind__", "wids_version", "name", "classes", "tokenizer", "shardlist", "totals", _CHECKSUM}


@dataclass(frozen=True)
class ShardEntry:
    """One shard in index.json. `url`, `nsamples` and `filesize` are keys of wids; the rest are our own."""

    url: str
    nsamples: int
    filesize: int
    sha256: str
    idx_sha256: str
    length_sum: int
    length_max: int


@dataclass(frozen=True)
class TokenizerEntry:
    """The tokenizer of text shards in index.json: hash of its files, and number of token types."""

    sha256: str
    vocab_size: int


@dataclass(frozen=True)
class FolderIndex:
    """The content of one index.json."""

    shards: tuple[ShardEntry, ...] = ()
    classes: tuple[str, ...] = ()
    tokenizer: TokenizerEntry | None = None


def read_folder_index(folder: Path) -> FolderIndex:
    """Read the folder's index.json; empty if there is none. Raises ValueError if it is not one of ours."""
    path = folder / INDEX_NAME
    return _parse_index(path.read_bytes(), str(path)) if path.exists() else FolderIndex()


def fetch_folder_index(folder: str, storage: Storage) -> FolderIndex:
    """Fetch a remote folder's index.json; empty if there is none.

    Raises ValueError if it is not one of ours or may not be read, Unreachable if the store does not answer.
    """
    location = join_location(folder, INDEX_NAME)
    try:
        return _parse_index(storage.fetch(location), location)
    except FileNotFoundError:
        return FolderIndex()
    except Unreachable as error:
        raise Unreachable(f"{error}; the same command goes on once the store answers") from error
    except OSError as error:
        raise ValueError(str(error)) from error


def _parse_index(text: bytes, name: str) -> FolderIndex:
    try:
        content = json.loads(text)
        _check_unchanged(content)
        shards = tuple(_checked_entry(ShardEntry(**entry)) for entry in content["shardlist"])
        tokenizer = TokenizerEntry(**content["tokenizer"]) if content.get("tokenizer") else None
        if tokenizer and not (_is_sha256(tokenizer.sha256) and type(tokenizer.vocab_size) is int):
            raise ValueError("its tokenizer has no sha256 and vocab_size")
        classes = tuple(content.get("classes", ()))
        if not all(type(name) is str for name in classes) or not isinstance(content.get("totals", {}), dict):
            raise ValueError("classes are no names, or totals no object")
        return FolderIndex(shards, classes, tokenizer)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{name} is not an index of ours ({error!r}); make it with {REMEDY}{name[:-11]}") from error


def _check_unchanged(content: dict[str, Any]) -> None:
    """Raise ValueError if a key or a value is not what was written. An older index has no checksum, but known keys."""
    if unknown := content.keys() - _KEYS:
        raise ValueError(f"unknown key {min(unknown)!r}")
    if content.get(_CHECKSUM, (checksum := _checksum(content))) != checksum:
        raise ValueError(f"its content differs from its {_CHECKSUM}: it was changed or damaged after it was written")


def _checksum(content: dict[str, Any]) -> str:
    """sha256 of the content's keys and values, without that of `_CHECKSUM`."""
    rest = {key: value for key, value in content.items() if key != _CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _checked_entry(entry: ShardEntry) -> ShardEntry:
    """Return the entry. Raises ValueError if it cannot describe a shard beside its index.json."""
    numbers = (entry.nsamples, entry.filesize, entry.length_sum, entry.length_max)
    sound = all(type(number) is int and number >= 0 for number in numbers) and entry.filesize > 0
    if not (sound and _is_sha256(entry.sha256) and _is_sha256(entry.idx_sha256) and type(entry.url) is str):
        raise ValueError(f"the counts or checksums of {entry.url!r} are none")
    if "/" in entry.url or entry.url in ("", ".", ".."):
        raise ValueError(f"{entry.url!r} is not the name of a file beside it")
    return entry


def _is_sha256(value: object) -> bool:
    return type(value) is str and re.fullmatch("[0-9a-f]{64}", value) is not None


def index_json(index: FolderIndex) -> str:
    """Text of an index.json. Equal indexes give equal texts."""
    entries = sorted(index.shards, key=lambda entry: entry.url)
    content = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": ",".join(sorted({entry.url.rpartition("-")[0] or entry.url for entry in entries})),
        "classes": list(index.classes),
        **({"tokenizer": asdict(index.tokenizer)} if index.tokenizer else {}),
        "shardlist": [asdict(entry) for entry in entries],
        "totals": totals(entries),
    }
    return json.dumps({**content, _CHECKSUM: _checksum(content)}, indent=1) + "\n"


def totals(entries: Sequence[ShardEntry]) -> dict[str, int]:
    """Number of shards, and sums of samples, bytes and lengths over the shards of a folder."""
    sums = {key: sum(getattr(entry, key) for entry in entries) for key in ("nsamples", "filesize", "length_sum")}
    return {"shards": len(entries), **sums}


class FolderIndexes:
    """The index.json of each folder, local or remote, read once."""

    def __init__(self, storage: Storage | None = None) -> None:
        self._storage = storage or storage_of(DataConfig())
        self._read: dict[str, FolderIndex] = {}

    def __getitem__(self, folder: str) -> FolderIndex:
        """Index of a folder. Raises ValueError and Unreachable as `fetch_folder_index` does."""
        if folder not in self._read:
            remote = is_remote(folder)
            self._read[folder] = (
                fetch_folder_index(folder, self._storage) if remote else read_folder_index(local_path(folder))
            )
        return self._read[folder]
