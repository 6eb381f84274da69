"""Files of source folders, and keys and classes from their names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from data_shards.shards.tar import SKIPPED, member_header
from data_shards.sources.stores import Entry, Store
from data_shards.sources.units import LeftOut

Anything = TypeVar("Anything")

_KEPT_BYTES = 32
"""Bytes that are left of a name that is too long."""


@dataclass(frozen=True)
class SourceFile:
    """A file below the source folder: the parts of its path, and its size and time from `stat`, or from a store."""

    root: Path
    parts: tuple[str, ...]
    size: int
    modified: int
    """Time of the last change, in ns; of a store's file a number that changes with it."""
    store: Store | None = None
    stored: str = ""
    """Name in the store."""

    @property
    def path(self) -> str:
        """Path of the file, with the source folder or store."""
        if self.store is not None:
            return f"{self.store.location}/{self.stored}"
        return str(self.root.joinpath(*self.parts))

    @property
    def name(self) -> str:
        """Path of the file below the source folder."""
        return "/".join(self.parts)


def extension(name: str) -> str:
    """Extension of a file name in lower case, without the dot."""
    return Path(name).suffix.lower().lstrip(".")


def source_file(root: Path, parts: tuple[str, ...]) -> SourceFile:
    """Source file for the existing file root/parts."""
    stat = root.joinpath(*parts).stat()
    return SourceFile(root, parts, stat.st_size, stat.st_mtime_ns)


def _succeeds_true(test: Callable[[], bool]) -> bool:
    """Result of `test`; False if it raises OSError, as for a link to itself."""
    try:
        return test()
    except OSError:
        return False


@dataclass(frozen=True)
class Walk:
    """Search of a folder for wanted files."""

    wanted: Callable[[str], bool]
    """Function of a file name."""
    kinds: str
    """Description of the wanted files, for messages."""
    left_out: LeftOut
    ignored: tuple[str, ...] = ()
    """Extensions of files that are left out without being counted."""

    def files(
        self, root: Path, parts: tuple[str, ...] = (), above: frozenset[str] = frozenset()
    ) -> Iterator[SourceFile]:
        """Yield the wanted files below root/parts. Links are followed, except circles. Hidden names are left out."""
        folder = root.joinpath(*parts)
        real = os.path.realpath(folder)
        if real in above:
            self.left_out.add("link to a folder above it", str(folder))
            return
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            if not parts:
                raise
            self.left_out.add_unreadable(f"{folder}/", error)
            return
        for entry in entries:
            if entry.name.startswith("."):
                self.left_out.add("hidden", entry.path)
            elif _succeeds_true(entry.is_dir):
                yield from self.files(root, (*parts, entry.name), above | {real})
            elif extension(entry.name) not in self.ignored:
                yield from self._wanted_file(root, parts, entry)

    def stored_files(self, store: Store, entries: Iterable[Entry]) -> Iterator[SourceFile]:
        """Yield the wanted files of a store, in the order in which `files` yields those of such a folder.

        A folder that holds all of them is taken off. entries: all that the store holds.
        """
        usable: list[tuple[tuple[str, ...], Entry]] = []
        for entry in entries:
            parts = tuple(part for part in entry.name.split("/") if part != ".")
            place = f"{store.location}/{entry.name}"
            if entry.problem:
                self.left_out.add(entry.problem, place)
            elif not all(parts) or ".." in parts:
                self.left_out.add("a name that leads out of the archive", place)
            elif any(part.startswith(".") for part in parts):
                self.left_out.add("hidden", place)
            else:
                usable.append((parts, entry))
        tops = {parts[0] for parts, _ in usable if len(parts) > 1} if all(len(p) > 1 for p, _ in usable) else set()
        for parts, entry in sorted(usable):
            parts = parts[1:] if len(tops) == 1 else parts
            place = f"{store.location}/{entry.name}"
            if extension(parts[-1]) in self.ignored:
                continue
            if not self.wanted(parts[-1]):
                self.left_out.add(f"not {self.kinds}", place)
            elif not entry.size:
                self.left_out.add("0 bytes", place)
            else:
                yield SourceFile(Path(store.location), parts, entry.size, entry.version, store, entry.name)

    def _wanted_file(self, root: Path, parts: tuple[str, ...], entry: os.DirEntry) -> Iterator[SourceFile]:
        """Yield the file of an entry if it is wanted and usable; else add it to `left_out`."""
        if not self.wanted(entry.name):
            self.left_out.add(f"not {self.kinds}", entry.path)
        elif not _succeeds_true(entry.is_file):
            self.left_out.add("broken link or no plain file", entry.path)
        elif not entry.stat().st_size:
            self.left_out.add("0 bytes", entry.path)
        else:
            yield source_file(root, (*parts, entry.name))


def keys_of(files: Sequence[SourceFile]) -> list[str]:
    """Key per file: its path without the extension, dots replaced by `_`, numbered if two keys would be equal.

    `__folder__/` at the beginning, which readers skip, becomes `_folder__/`.
    """
    wanted = ["/".join((*file.parts[:-1], Path(file.parts[-1]).stem)).replace(".", "_") for file in files]
    wanted = [key[1:] if SKIPPED.match(key) else key for key in wanted]
    taken = set(wanted)
    seen: set[str] = set()
    keys = []
    for key in wanted:
        number, free = 1, key
        while free in seen or (number > 1 and free in taken):
            number += 1
            free = f"{key}_{number}"
        seen.add(free)
        keys.append(free)
    return keys


def fitting_keys(
    keys: Sequence[str], files: Sequence[SourceFile], ending: Callable[[SourceFile], str], left_out: LeftOut
) -> list[str]:
    """Return the keys; one whose member KEY + ending does not fit a tar header is shortened, and named in `left_out`.

    A shortened key ends with a hash of the whole one, so it depends on nothing else and stays unique.
    """
    fitting = []
    for key, file in zip(keys, files, strict=True):
        shorter = [key] if _fits_tar_header(key + ending(file)) else _shorter_keys(key)
        fitting.append(next(name for name in shorter if _fits_tar_header(name + ending(file))))
        if fitting[-1] != key:
            left_out.add_kept("a name that is too long for a tar; its key is shortened", file.path)
    return fitting


def _shorter_keys(key: str) -> tuple[str, str]:
    """Return the key with a shorter last part, and without folders but the first."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    *folders, last = key.split("/")
    short = f"{_first_bytes(last)}_{digest}"
    return "/".join([*folders, short]), "/".join([*map(_first_bytes, folders[:1]), short])


def _first_bytes(text: str) -> str:
    """Return the beginning of a name, of at most _KEPT_BYTES."""
    return text.encode("utf-8", "surrogateescape")[:_KEPT_BYTES].decode("utf-8", "ignore")


def _fits_tar_header(name: str) -> bool:
    """Return True if a member's name fits a tar header."""
    if len(name) <= 25:  # never too long, whatever the encoding
        return True
    try:
        member_header(name, 0)
    except ValueError:
        return False
    return True


def class_names(root: Path, files: Sequence[SourceFile]) -> list[str]:
    """Sorted names of the class folders; none if a file lies beside them."""
    if any(len(file.parts) == 1 for file in files):
        return []
    if files and files[0].store is not None:
        return sorted({file.parts[0] for file in files})
    return sorted(
        entry.name for entry in os.scandir(root) if _succeeds_true(entry.is_dir) and not entry.name.startswith(".")
    )


def shuffled(units: Sequence[Anything]) -> list[Anything]:
    """Units in a fixed permutation, so that neither a shard nor a part of it holds a single class."""
    order = np.argsort(np.random.Philox(key=[0, 0]).random_raw(len(units)), kind="stable")
    return [units[i] for i in order]
