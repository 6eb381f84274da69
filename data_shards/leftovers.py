"""Removal, at the user's next start, of what killed processes left in the temporary folder and among the semaphores.

Everything there is named after the process that made it: `data2vec_PID_START_MACHINE`. A process that is killed
together with its helpers cannot remove it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

SEMAPHORES = Path("/dev/shm")
"""Folder in which Linux shows semaphores, as files `sem.NAME`."""
MARKER = "data2vec"
"""File in a temporary folder that we have made."""

_NAME = re.compile(r"(?:sem\.)?data2vec_(\d+)_(\d+)_([0-9a-f]{8})[_-][a-z0-9_]{8}")
_FILES = (MARKER, "exits")


def own_name() -> str:
    """Beginning of the names of what this process makes: it tells when it started, too, because ids are used again."""
    return f"data2vec_{os.getpid()}_{_start(os.getpid())}_{_machine()}"


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Private temporary folder, removed at the end of the block, or at the user's next start if this process is killed.

    It may hold the file `exits` alone.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{own_name()}_"))
    (folder / MARKER).touch()
    try:
        yield folder
    finally:
        _remove_folder(folder)


def remove_leftovers() -> None:
    """Remove temporary folders and semaphores of this user's processes that have ended on this machine."""
    for folder in Path(tempfile.gettempdir()).glob("data2vec_*"):
        if _is_leftover(folder, stat.S_ISDIR) and (folder / MARKER).is_file():
            _remove_folder(folder)
    for semaphore in SEMAPHORES.glob("sem.data2vec_*"):
        if _is_leftover(semaphore, stat.S_ISREG):
            with contextlib.suppress(OSError):
                semaphore.unlink()


def _is_leftover(path: Path, kind: Callable[[int], bool]) -> bool:
    """True for an entry of this kind that a process of this user made, on this machine, and that has ended."""
    name = _NAME.fullmatch(path.name)
    if not name or name[3] != _machine():
        return False
    try:
        status = path.lstat()
    except OSError:
        return False
    return kind(status.st_mode) and status.st_uid == os.getuid() and _start(int(name[1])) != int(name[2])


def _remove_folder(folder: Path) -> None:
    """Remove a folder and the files that we put there; leave it if it holds another."""
    with contextlib.suppress(OSError):
        for name in _FILES:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def _start(process: int) -> int | None:
    """Time at which a process started, in ticks since the machine's start; None if there is none, or if it has ended
    and nobody has asked for its exit code: in a container whose first process asks for none, such zombies stay."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return None if fields[0] in ("Z", "X") else int(fields[19])
    except (OSError, IndexError):
        return None


@cache
def _machine() -> str:
    """Hash of this start of the machine and of the container, whose process ids mean nothing in another.

    "" if they cannot be told: then nothing is ever removed.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8")
    except OSError:
        return ""
    return hashlib.sha256(f"{boot} {os.readlink('/proc/self/ns/pid')}".encode()).hexdigest()[:8]
