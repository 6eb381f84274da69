"""Cache of pieces of remote files on this node's disk, shared by processes and jobs, with a limit in bytes.

FOLDER/ab/abcdef...   a piece; its name is a hash of its identity, so no other piece can be mistaken for it
FOLDER/lock, size     the lock under which room is made, and the total bytes of all pieces
FOLDER/locks/00 ...   the process that fetches a piece holds one of these locks; others wait for the piece
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)

_ROOM_SHARE = 0.9
"""Share of the limit down to which pieces are removed, so that the folder is not walked for every new piece."""
_ABANDONED_S = 3600.0
"""Age of a `.tmp` whose writer is gone."""


class Cache:
    """A folder of pieces. Any number of processes may use it. A killed process leaves no wrong piece."""

    def __init__(self, folder: Path, limit: int) -> None:
        """limit: bytes of all pieces together. Raises ValueError if the folder is not writable or another user's."""
        self.folder, self.limit = folder, limit
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # the pieces may be private
            (folder / "locks").mkdir(exist_ok=True)
            (folder / "lock").touch()
        except OSError as error:
            raise ValueError(f"data.cache_dir={folder}: {error.strerror}: choose another folder") from None
        if folder.stat().st_uid not in (os.getuid(), 0):
            raise ValueError(f"data.cache_dir={folder} belongs to another user: choose another folder")
        self._full_disk = False

    def path(self, identity: str) -> Path:
        """Path of the piece with this identity, whether the piece exists or not."""
        name = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:40]
        return self.folder / name[:2] / name

    def get(self, identity: str, size: int, fetch: Callable[[], bytes]) -> tuple[Path | None, bytes | None]:
        """(path of the piece, its bytes), fetching the piece if it is missing.

        The path is None if there is no room for the piece. The bytes are None unless they were just fetched.
        size: expected bytes of the piece.
        """
        path = self.path(identity)
        if self._mark_used(path, size):
            return path, None
        with self._locked(self.folder / "locks" / path.name[:2]):
            if self._mark_used(path, size):  # another process was quicker
                return path, None
            data = fetch()
            assert len(data) == size
            return (path if self._store(path, data) else None), data

    def drop(self, identity: str) -> None:
        """Remove a piece that turned out to be damaged."""
        self.path(identity).unlink(missing_ok=True)

    def _mark_used(self, path: Path, size: int) -> bool:
        """True if the piece is complete. Sets its time of last use to now, so that it is removed last."""
        try:
            if path.stat().st_size != size:
                return False
            os.utime(path)
        except OSError:
            return False
        return True

    def _store(self, path: Path, data: bytes) -> bool:
        """Store a piece; False if it does not fit into the limit or onto the disk."""
        partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(exist_ok=True)
            if not self._reserve(partial, len(data)):
                return False
            with partial.open("r+b") as file:  # not truncated: it keeps the room that it reserves
                file.write(data)
            with self._locked(self.folder / "lock"):  # whoever adds up the pieces must see each exactly once
                os.replace(partial, path)
            return True
        except OSError as error:
            partial.unlink(missing_ok=True)
            if not self._full_disk:
                log.warning("data.cache_dir=%s: %s: pieces are not kept", self.folder, error.strerror)
            self._full_disk = True
            return False

    def _reserve(self, partial: Path, size: int) -> bool:
        """Make room, and reserve it by an empty file of `size` bytes; False if there is not enough."""
        if size > self.limit:
            return False
        with self._locked(self.folder / "lock"):
            taken = self._recorded_size()
            if taken is None or taken + size > self.limit:
                taken = self._make_room(size)
            if taken + size > self.limit:  # other processes are writing all of it
                return False
            with partial.open("wb") as file:
                file.truncate(size)
            self._record_size(taken + size)
        return True

    def _recorded_size(self) -> int | None:
        """Total bytes of all pieces according to FOLDER/size; None without it. After a kill it may be too high."""
        try:
            return int((self.folder / "size").read_text())
        except (OSError, ValueError):
            return None

    def _record_size(self, taken: int) -> None:
        partial = self.folder / "size.tmp"
        partial.write_text(str(taken))
        os.replace(partial, self.folder / "size")

    def _make_room(self, size: int) -> int:
        """Remove the least recently used pieces until `size` bytes fit; returns the total bytes that are left."""
        found = sorted(self._pieces())
        taken = sum(piece_size for _, piece_size, _ in found)
        for used, piece_size, path in found:
            abandoned = path.endswith(".tmp") and time.time() - used > _ABANDONED_S
            if abandoned or (taken + size > _ROOM_SHARE * self.limit and not path.endswith(".tmp")):
                with suppress(FileNotFoundError):
                    os.unlink(path)
                taken -= piece_size
        return taken

    def _pieces(self) -> Iterator[tuple[float, int, str]]:
        """Yield (time of last use, size, path) of every piece, including pieces that are being written."""
        for folder in os.scandir(self.folder):
            if len(folder.name) == 2 and folder.is_dir():
                for entry in os.scandir(folder):
                    with suppress(FileNotFoundError):
                        stat = entry.stat()
                        yield stat.st_mtime, stat.st_size, entry.path

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
