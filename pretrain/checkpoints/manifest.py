"""Manifest of a checkpoint: the files that belong to it, with sizes and checksums, and whether they are sound.

RUN/checkpoints/step_00000500/manifest.json   {FILE: {"bytes": n, "sha256": ...}}, written last

Only files that the manifest lists are read, and all of them are verified first. An error of the disk is no damage: what
could not be read may be sound.
"""

from __future__ import annotations

import json
import re
import stat
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from configs.command import Temporary
from data_shards.files import PARTIAL, file_sha256, replace_text

T = TypeVar("T")

MANIFEST, STATE = "manifest.json", "state.json"
_RANK_FILE = re.compile(r"rank_[0-9]{5,}\.safetensors")
WAITS_S = (1.0, 5.0)
"""Seconds before the second and the third try of a read that failed."""
ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""Errors that say that there is no such file. All others say nothing about its content."""


class Damaged(ValueError):
    """Damage of a checkpoint: its files were read, and are not those that were written."""


class Unreadable(OSError, Temporary):
    """Failure of the disk or the network in a read. The content may be sound: the same command may work later."""


@dataclass(frozen=True)
class FileEntry:
    """A file in the manifest."""

    bytes: int
    sha256: str


def file_name(rank: int) -> str:
    """Name of a rank's file."""
    return f"rank_{rank:05d}.safetensors"


def is_own_name(name: str) -> bool:
    """True for the names of the files that a save writes, half-written ones included."""
    whole = name.removesuffix(PARTIAL)
    return whole in (MANIFEST, STATE) or bool(_RANK_FILE.fullmatch(whole))


def patiently(read: Callable[[], T], path: Path) -> T:
    """Result of `read`, with two more tries if the disk fails.

    Raises Unreadable that names `path` after the last one, and at once the errors that no try can mend: there is no
    such file, or it may not be read.
    """
    for wait in (*WAITS_S, None):
        try:
            return read()
        except (*ABSENT, PermissionError):
            raise
        except OSError as error:
            if wait is None:
                raise Unreadable(
                    f"{path} cannot be read ({error.strerror or error}). That is no damage, and nothing was removed: "
                    "start it again once the disk answers. If it never does, move the checkpoint away: the run then "
                    "goes on from the one before"
                ) from error
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def write_json(path: Path, value: Any) -> FileEntry:
    """Write a small file atomically and return its manifest entry. Raises OSError."""
    replace_text(path, json.dumps(value, indent=1))
    return FileEntry(path.stat().st_size, file_sha256(path))


def write_manifest(folder: Path, entries: dict[str, FileEntry]) -> None:
    """Write the manifest of a folder. Raises OSError."""
    write_json(folder / MANIFEST, {name: asdict(entry) for name, entry in sorted(entries.items())})


def read_manifest(folder: Path) -> dict[str, FileEntry]:
    """Entries of a folder's manifest, by file name.

    Raises Damaged if there is none, if it is not what a save writes, or if a name leads out of the folder; OSError if
    it cannot be read.
    """
    path = folder / MANIFEST
    try:
        saved = json.loads(patiently(path.read_bytes, path))
        entries = {name: FileEntry(entry["bytes"], entry["sha256"]) for name, entry in saved.items()}
    except (*ABSENT, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Damaged(f"{MANIFEST} is missing or unreadable") from None
    for name in entries:
        if Path(name).name != name or "\0" in name:
            raise Damaged(f"{name} in {MANIFEST} leads out of the checkpoint")
    if STATE not in entries:
        raise Damaged(f"{MANIFEST} does not list {STATE}")
    return entries


def rank_files(folder: Path) -> list[Path]:
    """Paths of the ranks' files that a folder's manifest lists. Raises as `read_manifest` does."""
    return [folder / name for name in sorted(read_manifest(folder)) if _RANK_FILE.fullmatch(name)]


def damage(folder: Path, rank: int = 0, world: int = 1) -> list[str]:
    """Faults of a checkpoint against its manifest, one text per file; empty if the checkpoint is good.

    Rank `rank` of `world` checks its share of the files. A name that leads out of the folder is a fault. Raises OSError
    if a file cannot be read, which is no fault.
    """
    try:
        expected = sorted(read_manifest(folder).items())
    except Damaged as error:
        return [str(error)]
    return [fault for name, entry in expected[rank::world] if (fault := _fault(folder / name, entry))]


def _fault(path: Path, entry: FileEntry) -> str | None:
    try:
        status = patiently(path.lstat, path)
        if stat.S_ISLNK(status.st_mode):
            return f"{path.name} in {MANIFEST} leads out of the checkpoint"
        if not stat.S_ISREG(status.st_mode):
            return f"{path.name} is missing"
        if status.st_size != entry.bytes:
            return f"{path.name} has {status.st_size} bytes, not {entry.bytes}"
        same = patiently(lambda: file_sha256(path), path) == entry.sha256
        return None if same else f"{path.name} has another checksum"
    except ABSENT:
        return f"{path.name} is missing"
