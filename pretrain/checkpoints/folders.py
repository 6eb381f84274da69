"""Folders of RUN/checkpoints: their names, and how they come and go.

Only this file knows how folders are named: step_N a checkpoint, staging_step_N one that is being written,
replaced_step_N and removed_step_N ones that are going. RUN/checkpoints/latest names the newest, for people: no command
reads it.

Nothing is removed that a save has not provably written: of a checkpoint the files that its manifest lists, of a killed
save those with the names of a save. Other files, links and folders without a manifest stay.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from data_shards.files import replace_text
from pretrain.checkpoints.manifest import (
    ABSENT,
    MANIFEST,
    Damaged,
    FileEntry,
    is_own_name,
    patiently,
    read_manifest,
    write_manifest,
)

PREFIX, STAGING = "step_", "staging_"
REMOVED, REPLACED = "removed_", "replaced_"
LATEST = "latest"


def checkpoint_folders(folder: Path) -> list[Path]:
    """Folders of the checkpoints in RUN/checkpoints, oldest first. Raises OSError if they cannot be listed."""
    return sorted(_named(folder, ""), key=step_of)


def step_folder(folder: Path, step: int) -> Path:
    """Folder of the checkpoint of `step` in RUN/checkpoints."""
    return folder / f"{PREFIX}{step:08d}"


def step_of(folder: Path) -> int:
    """Step of a checkpoint's folder."""
    return int(folder.name.removeprefix(PREFIX))


def describe_newest(run: Path) -> str:
    """Words for the newest checkpoint of a run, whose files are not verified here."""
    try:
        folders = checkpoint_folders(run / "checkpoints")
    except OSError as error:
        return f"its checkpoints cannot be listed ({error})"
    return f"the last checkpoint is {folders[-1]}" if folders else "there is no checkpoint yet"


def shortage(folder: Path, needed: int, what: str = "a checkpoint") -> str | None:
    """Message that RUN/checkpoints has no room for `needed` bytes, or that nobody can tell; None if they fit."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"no room for {what} in {folder} that can be told ({error.strerror}): {needed:,} bytes needed"
    return None if free >= needed else f"no room for {what} in {folder}: {needed:,} bytes needed, {free:,} free"


def staging_of(final: Path) -> Path:
    """Folder in which the files of checkpoint `final` are gathered before they are committed.

    Each checkpoint has its own: on NFS other nodes may for a while still take a reused name for the renamed folder.
    """
    return final.with_name(f"{STAGING}{final.name}")


def make_staging(final: Path) -> Path:
    """Make the staging folder of `final`; return it. Raises OSError, also for a link in its place."""
    staging = staging_of(final)
    staging.mkdir(exist_ok=not staging.is_symlink())  # a killed save's may hold files that are not ours, and stay
    return staging


def commit(staging: Path, final: Path, entries: dict[str, FileEntry]) -> None:
    """Turn the files in `staging` into the complete checkpoint `final`.

    Raises OSError; `final` is then unchanged or absent.
    """
    write_manifest(staging, entries)
    replaced = final.with_name(f"{REPLACED}{final.name}")
    _tidy(replaced)
    with contextlib.suppress(FileNotFoundError):
        final.rename(replaced)
    staging.rename(final)
    replace_text(final.parent / LATEST, final.name)  # its fsync of the folder also makes the renaming durable
    _tidy(replaced)


def remove(folder: Path) -> None:
    """Remove a checkpoint. A kill on the way leaves nothing that looks like a checkpoint.

    Files in it that its manifest does not list stay, in removed_step_N. Raises Damaged if no manifest shows that it is
    a checkpoint, OSError if it is a link or cannot be removed.
    """
    names = read_manifest(folder)
    if folder.is_symlink():
        raise OSError("it is a link")
    doomed = folder.with_name(f"{REMOVED}{folder.name}")
    _tidy(doomed)
    folder.rename(doomed)
    _delete(doomed, names)


def discard(staging: Path) -> None:
    """Remove what a save has written to a staging folder, as far as that is possible."""
    with contextlib.suppress(OSError):
        _delete(staging, [name for name in os.listdir(staging) if is_own_name(name)])


def remove_leftovers(folder: Path) -> None:
    """Tidy RUN/checkpoints after a killed save, replacement or removal, as far as possible.

    A replaced checkpoint is put back if nothing has taken its place.
    """
    for replaced in _named(folder, REPLACED):
        final = folder / replaced.name.removeprefix(REPLACED)
        if not os.path.lexists(final) and (replaced / MANIFEST).is_file():
            replaced.rename(final)
    for staging in _named(folder, STAGING):
        discard(staging)
    for left in (*_named(folder, REMOVED), *_named(folder, REPLACED)):
        _tidy(left)


def _named(folder: Path, kind: str) -> list[Path]:
    """Folders of RUN/checkpoints named `kind`step_N. A link to a checkpoint counts as one; to other kinds it does not.

    Raises OSError if they cannot be listed.
    """
    pattern = re.compile(rf"{kind}{PREFIX}[0-9]+")

    def read() -> list[Path]:
        with os.scandir(folder) as entries:
            return [Path(e) for e in entries if pattern.fullmatch(e.name) and e.is_dir(follow_symlinks=not kind)]

    try:
        return patiently(read, folder)
    except ABSENT:
        return []


def _tidy(left: Path) -> None:
    """Remove the rest of a checkpoint that is going, as far as possible: what its manifest lists."""
    with contextlib.suppress(OSError, Damaged):
        _delete(left, read_manifest(left))
    with contextlib.suppress(OSError):
        left.rmdir()  # a kill may have left it empty


def _delete(folder: Path, names: Iterable[str]) -> None:
    """Delete files of a folder, the manifest last, and the folder if it is then empty. Links stay. Raises OSError."""
    for name in (*names, MANIFEST):
        path = folder / name
        if not path.is_symlink():
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()
