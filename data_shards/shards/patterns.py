"""Patterns of `data.shards` (folders, globs, braces, lists of these) -> locations of shards, in a fixed order."""

from __future__ import annotations

import errno
import fnmatch
import glob
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import braceexpand

from configs.schema_training import Patterns
from data_shards.shards.index_file import FolderIndexes
from data_shards.shards.storage import folder_of, is_remote, join_location, local_path, name_of

_NAMES_SHOWN = 5


def _tar_names(folder: str, promised: bool, folders: FolderIndexes) -> set[str]:
    """Names of the tars in a folder.

    promised: add the names in its index.json. A remote folder is never listed; its index.json has all names.
    """
    there = set() if is_remote(folder) else {path.name for path in local_path(folder).glob("*.tar")}
    return there | {entry.url for entry in folders[folder].shards} if promised else there


def _expand_pattern(pattern: str, promised: bool, folders: FolderIndexes) -> list[str]:
    """Locations of the shards that one pattern without braces names."""
    if is_remote(pattern):
        return _expand_remote(pattern, folders)
    path = local_path(pattern)
    if path.is_dir():
        return [str(path / name) for name in sorted(_tar_names(str(path), promised, folders))]
    if path.exists() or not any(sign in pattern for sign in "*?["):
        return [str(path)]
    found = [str(path.parent)] if path.parent.is_dir() else sorted(glob.glob(str(path.parent)))
    matches = {folder: fnmatch.filter(_tar_names(folder, promised, folders), path.name) for folder in found}
    return [str(Path(folder) / name) for folder, names in matches.items() for name in sorted(names)]


def _expand_remote(pattern: str, folders: FolderIndexes) -> list[str]:
    """Expand a remote pattern by the folder's index.json, because a store may be unable to list its objects."""
    name = name_of(pattern)
    if name.endswith(".tar") and not any(sign in name for sign in "*?["):
        return [pattern]
    folder = folder_of(pattern) if name.endswith(".tar") or not name else pattern
    glob_name = name if name.endswith(".tar") else "*"
    return [
        join_location(folder, url) for url in sorted(fnmatch.filter([e.url for e in folders[folder].shards], glob_name))
    ]


def patterns_of(shards: Patterns) -> tuple[str, ...]:
    """The patterns as a tuple, one or several."""
    return (shards,) if isinstance(shards, str) else shards


def _expand_braces(item: str) -> Iterable[str]:
    """Patterns that braces stand for. Braces in the name of an existing file or folder are taken literally."""
    folder, slash, name = item.rpartition("/")
    if is_remote(item):
        return braceexpand.braceexpand(item)
    if not item or local_path(item).exists():
        return (item,)
    if folder and local_path(folder).is_dir():
        return (folder + slash + pattern for pattern in braceexpand.braceexpand(name))
    return braceexpand.braceexpand(item)


def expand_item(item: str, promised: bool, folders: FolderIndexes) -> list[str]:
    """Locations of the shards that one item of a list names. Raises ValueError if nothing matches."""
    patterns = _expand_braces(item)
    paths = list(
        dict.fromkeys(path for pattern in patterns if pattern for path in _expand_pattern(pattern, promised, folders))
    )
    if not paths:
        raise _no_match(item)
    return paths


def _no_match(shards: Patterns) -> ValueError:
    return ValueError(
        f"no shards match {shards!r}; give a folder, a glob or braces, as /data/train-{{000000..000146}}.tar, "
        f"or build some: ./run.sh shards build source=imagefolder input=DIR output=DIR"
    )


def expand(shards: Patterns, promised: bool = True, folders: FolderIndexes | None = None) -> list[str]:
    """Locations of the shards that folders, globs or braces name, without repetition, in a fixed order.

    promised: include shards that index.json names, even if there is no such file. Shards that a plain name or braces
    name are always included. Raises ValueError if nothing matches.
    """
    folders = folders or FolderIndexes()
    items = patterns_of(shards) or ("",)
    found = (path for item in items for path in expand_item(item, promised, folders))
    once = {path if is_remote(path) else os.path.realpath(path): path for path in reversed([*found])}
    return list(reversed(once.values()))


def check_one_name(shards: Patterns, folders: FolderIndexes) -> None:
    """Raise ValueError if an item is a folder whose shards have several names, as train-000000.tar and val-000000.tar.

    A run would train on all of them, held-out shards included.
    """
    for item in patterns_of(shards):
        is_folder = not item.endswith(".tar") if is_remote(item) else bool(item) and local_path(item).is_dir()
        names = Counter(_series(name_of(path)) for path in expand_item(item, True, folders)) if is_folder else {}
        if len(names) > 1:
            folder, (first, *_) = item.rstrip("/"), sorted(names)
            counts = [f"{name} ({count})" for name, count in sorted(names.items())]
            more = f" and {len(counts) - _NAMES_SHOWN} more" if len(counts) > _NAMES_SHOWN else ""
            raise ValueError(
                f"{item} holds shards of several names: {', '.join(counts[:_NAMES_SHOWN])}{more}; give one of them, as "
                f"{folder}/{first}, or all, {folder}/*.tar"
            )


def _series(name: str) -> str:
    """Pattern of a shard's name and of those that differ from it only by the number at their end."""
    stem = name.removesuffix(".tar")
    bare = re.sub(r"\d+(-of-\d+)?$", "", stem)
    return name if bare == stem else f"{bare}*.tar"


def resolve(shards: Patterns, promised: bool = True, folders: FolderIndexes | None = None) -> list[str]:
    """Expand patterns as `expand`. Raises ValueError if a local shard does not exist, and names the first.

    Raises PermissionError if one may not be read.
    """
    paths = expand(shards, promised, folders)
    local = [path for path in paths if not is_remote(path)]
    if missing := [path for path in local if not local_path(path).is_file()]:
        if len(missing) == len(paths):
            raise _no_match(shards)
        raise ValueError(
            f"no shards match: {len(missing)} of the {len(paths)} files that {shards!r} names do not exist, "
            f"the first: {missing[0]}"
        )
    if unreadable := [local_path(path) for path in local if not os.access(local_path(path), os.R_OK)]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(unreadable[0]))
    return paths


def local_shards(shards: Patterns, promised: bool = True) -> list[Path]:
    """Expand patterns as `expand`, for commands that need local files.

    Raises ValueError for remote shards, and if no shard is there and none is named in an index.json.
    """
    folders = FolderIndexes()
    paths = expand(shards, promised, folders)
    if remote := [path for path in paths if is_remote(path)]:
        raise ValueError(f"{remote[0]} is remote: run this where the files are, and copy what it writes beside them")
    found = [local_path(path) for path in paths]
    if not any(os.path.lexists(path) or path.name in _tar_names(str(path.parent), promised, folders) for path in found):
        raise _no_match(shards)
    return found
