"""Which checkpoints there are, and whether their files are what was written: names, sizes, SHA-256.

RUN/checkpoints/step_00000500/manifest.json   {FILE: {"bytes": n, "sha256": ...}}, written last
RUN/checkpoints/latest                        name of the newest, replaced after its manifest is on disk
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_shards.files import file_sha256, replace_text

PREFIX, STAGING = "step_", "staging_"
REMOVED, REPLACED = "removed_", "replaced_"
MANIFEST, LATEST = "manifest.json", "latest"


def checkpoint_folders(folder: Path) -> list[Path]:
    """The folders of checkpoints in RUN/checkpoints, oldest first."""
    return sorted(p for p in folder.glob(f"{PREFIX}*") if p.is_dir() and re.fullmatch(rf"{PREFIX}\d+", p.name))


def step_of(folder: Path) -> int:
    """The step of a checkpoint's folder."""
    return int(folder.name.removeprefix(PREFIX))


def shortage(folder: Path, needed: int, what: str = "a checkpoint") -> str | None:
    """What is missing for so many bytes in RUN/checkpoints, in words; None where they fit."""
    free = shutil.disk_usage(folder).free
    return None if free >= needed else f"no room for {what} in {folder}: {needed:,} bytes needed, {free:,} free"


def write_json(path: Path, value: Any) -> FileEntry:
    """Write a small file whole; what the manifest says of it. Raises OSError."""
    replace_text(path, json.dumps(value, indent=1))
    return FileEntry(path.stat().st_size, file_sha256(path))


def staging_of(final: Path) -> Path:
    """Where the files of a checkpoint are gathered. Each has a folder of its own: other nodes may remember for a while
    (NFS) that the name of the last one was a folder that has been renamed since."""
    return final.with_name(f"{STAGING}{final.name}")


def commit(staging: Path, final: Path, entries: dict[str, FileEntry]) -> None:
    """Make a complete checkpoint of the files in `staging`. Raises OSError; then `final` is as it was, or absent."""
    write_json(staging / MANIFEST, {name: asdict(entry) for name, entry in sorted(entries.items())})
    replaced = final.with_name(f"{REPLACED}{final.name}")
    shutil.rmtree(replaced, ignore_errors=True)
    if final.exists():
        final.rename(replaced)
    staging.rename(final)
    replace_text(final.parent / LATEST, final.name)  # which puts the renaming on the disk, too
    shutil.rmtree(replaced, ignore_errors=True)


def remove(folder: Path) -> None:
    """Remove a checkpoint; killed on the way, it leaves nothing that looks like one."""
    if folder.exists():
        doomed = folder.with_name(f"{REMOVED}{folder.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Tidy what a killed save, replacement or removal has left in RUN/checkpoints."""
    for replaced in folder.glob(f"{REPLACED}*"):
        final = folder / replaced.name.removeprefix(REPLACED)
        if not final.exists():
            replaced.rename(final)
    for prefix in (STAGING, REMOVED, REPLACED):
        for left in folder.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)


def damage(folder: Path, rank: int = 0, world: int = 1) -> list[str]:
    """What differs from the manifest, one text per file; empty where the checkpoint is good.

    Rank `rank` of `world` looks at its share of the files. Names that lead out of the folder are refused.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        expected = sorted((name, entry["bytes"], entry["sha256"]) for name, entry in manifest.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [f"{MANIFEST} is missing or unreadable"]
    return [fault for entry in expected[rank::world] if (fault := _fault(folder, *entry))]


def _fault(folder: Path, name: str, size: int, digest: str) -> str | None:
    path = folder / name
    if Path(name).name != name or path.is_symlink():
        return f"{name} in {MANIFEST} leads out of the checkpoint"
    if not path.is_file():
        return f"{name} is missing"
    if path.stat().st_size != size:
        return f"{name} has {path.stat().st_size} bytes, not {size}"
    try:
        return None if file_sha256(path) == digest else f"{name} has another checksum"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"


def latest_checkpoint(run: Path) -> Path | None:
    """The folder that RUN/checkpoints/latest names; None without one."""
    latest = run / "checkpoints" / "latest"
    try:
        return latest.parent / latest.read_text().strip()
    except OSError:
        return None


def last_checkpoint(run: Path) -> str:
    """What the run resumes from, in words."""
    latest = latest_checkpoint(run)
    return f"the last checkpoint is {latest}" if latest else "there is no checkpoint yet"


@dataclass(frozen=True)
class FileEntry:
    """What the manifest says of a file."""

    bytes: int
    sha256: str
