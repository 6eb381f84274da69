"""Checkpoint folders and their manifests: folder names, file sizes and checksums.

RUN/checkpoints/step_00000500/manifest.json   {FILE: {"bytes": n, "sha256": ...}}, written last
RUN/checkpoints/latest                        name of the newest, replaced after its manifest is on disk

Only this file knows how folders are named: step_N a checkpoint, staging_step_N one that is being written,
replaced_step_N and removed_step_N ones that are going.
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


@dataclass(frozen=True)
class FileEntry:
    """A file in the manifest."""

    bytes: int
    sha256: str


def checkpoint_folders(folder: Path) -> list[Path]:
    """Folders of the checkpoints in RUN/checkpoints, oldest first."""
    return sorted(p for p in folder.glob(f"{PREFIX}*") if p.is_dir() and re.fullmatch(rf"{PREFIX}\d+", p.name))


def step_folder(folder: Path, step: int) -> Path:
    """Folder of the checkpoint of `step` in RUN/checkpoints."""
    return folder / f"{PREFIX}{step:08d}"


def step_of(folder: Path) -> int:
    """Step of a checkpoint's folder."""
    return int(folder.name.removeprefix(PREFIX))


def shortage(folder: Path, needed: int, what: str = "a checkpoint") -> str | None:
    """Message that RUN/checkpoints has no room for `needed` bytes; None if they fit."""
    free = shutil.disk_usage(folder).free
    return None if free >= needed else f"no room for {what} in {folder}: {needed:,} bytes needed, {free:,} free"


def write_json(path: Path, value: Any) -> FileEntry:
    """Write a small file atomically and return its manifest entry. Raises OSError."""
    replace_text(path, json.dumps(value, indent=1))
    return FileEntry(path.stat().st_size, file_sha256(path))


def staging_of(final: Path) -> Path:
    """Folder in which the files of checkpoint `final` are gathered before they are committed.

    Each checkpoint has its own: on NFS other nodes may for a while still take a reused name for the renamed folder.
    """
    return final.with_name(f"{STAGING}{final.name}")


def commit(staging: Path, final: Path, entries: dict[str, FileEntry]) -> None:
    """Turn the files in `staging` into the complete checkpoint `final`.

    Raises OSError; `final` is then unchanged or absent.
    """
    write_json(staging / MANIFEST, {name: asdict(entry) for name, entry in sorted(entries.items())})
    replaced = final.with_name(f"{REPLACED}{final.name}")
    shutil.rmtree(replaced, ignore_errors=True)
    if final.exists():
        final.rename(replaced)
    staging.rename(final)
    replace_text(final.parent / LATEST, final.name)  # its fsync of the folder also makes the renaming durable
    shutil.rmtree(replaced, ignore_errors=True)


def remove(folder: Path) -> None:
    """Remove a checkpoint. A kill on the way leaves nothing that looks like a checkpoint."""
    if folder.exists():
        doomed = folder.with_name(f"{REMOVED}{folder.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Tidy RUN/checkpoints after a killed save, replacement or removal. A replaced checkpoint is put back."""
    for replaced in folder.glob(f"{REPLACED}*"):
        final = folder / replaced.name.removeprefix(REPLACED)
        if not final.exists():
            replaced.rename(final)
    for prefix in (STAGING, REMOVED, REPLACED):
        for left in folder.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)


def damage(folder: Path, rank: int = 0, world: int = 1) -> list[str]:
    """Faults of a checkpoint against its manifest, one text per file; empty if the checkpoint is good.

    Rank `rank` of `world` checks its share of the files. A name that leads out of the folder is a fault.
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
    """Folder that RUN/checkpoints/latest names; None if the file is absent."""
    latest = run / "checkpoints" / LATEST
    try:
        return latest.parent / latest.read_text().strip()
    except OSError:
        return None


def newest_step(run: Path) -> int:
    """Step of the checkpoint that RUN/checkpoints/latest names; 0 without one."""
    latest = latest_checkpoint(run)
    digits = latest.name.rpartition("_")[2] if latest else ""
    return int(digits) if digits.isdecimal() else 0


def describe_latest(run: Path) -> str:
    """Words for the checkpoint from which the run would resume."""
    latest = latest_checkpoint(run)
    return f"the last checkpoint is {latest}" if latest else "there is no checkpoint yet"
