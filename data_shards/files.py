"""Atomic writes, folder locks and checksums of files."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import BinaryIO

from configs.command import FULL

PARTIAL = ".data2vec-tmp"
"""End of the names of half-written files: nobody else's file has it, so a killed writer's can be removed."""


def partial_of(path: Path) -> Path:
    """Temporary file that `atomic_write` renames to `path`."""
    return path.with_name(path.name + PARTIAL)


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that is renamed to `path` once its content is on disk.

    An error inside the `with` block removes the temporary file and leaves `path` as it was. An OSError of a full disk
    names `path`, which the system's own does not.
    """
    partial = partial_of(path)
    try:
        partial.unlink(missing_ok=True)  # left by a killed process; a link is removed, not followed
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in FULL and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    _sync_folder(path.parent)


def set_aside(path: Path) -> Path | None:
    """Rename a file to the first free name of NAME.old, NAME.old2, ...; returns it, None if there is no such file."""
    names = (path.with_name(f"{path.name}.old{number if number > 1 else ''}") for number in count(1))
    old = next(name for name in names if not os.path.lexists(name))
    try:
        path.rename(old)
    except FileNotFoundError:
        return None
    return old


def replace_text(path: Path, text: str) -> None:
    """Write a text file atomically: a killed process leaves the old file or the new one."""
    with atomic_write(path) as file:
        file.write(text.encode())


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock. A second writer waits for the first, and then sees its work."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".index.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def file_sha256(path: Path) -> str:
    """sha256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()
