"""Cache of pieces of remote files on this node's disk, shared by processes and jobs, with a limit in bytes.

OWN = data.cache_dir/data2vec-cache-UID, made by the cache. Nothing outside of it is written, removed or followed.

OWN/made-by-data2vec  the marker
OWN/ab/abcdef...      a piece; its name is a hash of its identity, so no other piece can be mistaken for it
OWN/lock, size        the lock under which room is made, and the total bytes of all pieces
OWN/locks/00 ...      the process that fetches a piece holds one of these locks; others wait for the piece
OWN/tokenizer-...     a copy of a remote tokenizer
OWN/verified/...      sidecars that were compared with their checksums, by folder of shards
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)

_ROOM_SHARE = 0.9
"""Share of the limit down to which pieces are removed, so that the folder is not walked for every new piece."""
_ABANDONED_S = 3600.0
"""Age of a `.tmp` whose writer is gone."""
_MARKER = "made-by-data2vec"
_PART = re.compile("[0-9a-f]{2}")
_PIECE = re.compile(r"[0-9a-f]{40}(\.\d+\.tmp)?")
_OURS = re.compile(rf"{_MARKER}|{_PART.pattern}|lock|size|size\.tmp|locks|tokenizer-[0-9a-f]{{16}}|verified")
"""Names in the cache's own folder."""


def own_folder(parent: Path) -> Path:
    """Make this user's cache folder in `parent`, unless it is there, and return it.

    Raises ValueError if it cannot be written, is a link, is another user's, or holds what the cache did not make.
    """
    own = parent / f"data2vec-cache-{os.geteuid()}"
    try:
        own.mkdir(parents=True, exist_ok=True, mode=0o700)  # the pieces may be private
        status = own.lstat()
        if problem := _foreign(own, status):
            raise ValueError(f"data.cache_dir={parent}: {problem}: choose another folder")
        (own / _MARKER).touch()
        if stat.S_IMODE(status.st_mode) != 0o700:
            own.chmod(0o700)
    except OSError as error:
        raise ValueError(f"data.cache_dir={parent}: {error.strerror}: choose another folder") from None
    return own


def _foreign(own: Path, status: os.stat_result) -> str:
    """Return the reason why a folder, of this `lstat`, cannot be the cache's; "" if it is."""
    if not stat.S_ISDIR(status.st_mode):
        return f"{own.name} in it is a link or a file"
    if status.st_uid != os.geteuid():
        return f"{own.name} in it belongs to another user"
    with os.scandir(own) as entries:
        there = {entry.name: entry.is_symlink() for entry in entries}
    if links := [name for name, is_link in there.items() if is_link]:
        return f"{own / min(links)} is a link, which the cache did not make"
    others = [name for name in there if not _OURS.fullmatch(name)]
    if others and _MARKER not in there:  # a cleaner of temporary files may have removed the marker alone
        return f"the cache did not make {own / min(others)}"
    return ""


class Cache:
    """The pieces in its own folder. Any number of processes may use it. A killed process leaves no wrong piece."""

    def __init__(self, parent: Path, limit: int) -> None:
        """parent: `data.cache_dir`; limit: bytes of all pieces together. Raises ValueError as `own_folder`."""
        self.folder, self.limit = own_folder(parent), limit
        try:
            (self.folder / "locks").mkdir(exist_ok=True)
            (self.folder / "lock").touch()
        except OSError as error:
            raise ValueError(f"data.cache_dir={parent}: {error.strerror}: choose another folder") from None
        self._warned = False

    def path(self, identity: str) -> Path:
        """Path of the piece with this identity, whether the piece exists or not."""
        name = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:40]
        return self.folder / name[:2] / name

    def get(self, identity: str, size: int, fetch: Callable[[], bytes]) -> tuple[Path | None, bytes | None]:
        """(path of the piece, its bytes), fetching the piece if it is missing.

        The path is None if the piece cannot be stored. The bytes are None unless they were just fetched. Only `fetch`
        raises errors. size: expected bytes of the piece.
        """
        path = self.path(identity)
        if self._mark_used(path, size):
            return path, None
        lock = self.folder / "locks" / path.name[:2]
        try:
            lock.touch()
        except OSError as error:  # the folder was removed, or its disk has failed
            self._warn(error)
            return None, fetch()
        with self._locked(lock):
            if self._mark_used(path, size):  # another process was quicker
                return path, None
            data = fetch()
            assert len(data) == size
            return (path if self._store(path, data) else None), data

    def drop(self, identity: str) -> None:
        """Remove a piece that turned out to be damaged."""
        with suppress(OSError):
            self.path(identity).unlink()

    def _mark_used(self, path: Path, size: int) -> bool:
        """True if the piece is complete. Sets its time of last use to now, so that it is removed last."""
        try:
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode) or status.st_size != size:
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
            self._warn(error)
            return False

    def _warn(self, error: OSError) -> None:
        """Say once that pieces cannot be stored."""
        if not self._warned:
            log.warning("data.cache_dir=%s: %s: pieces are not kept", self.folder, error.strerror)
        self._warned = True

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
            return int((self.folder / "size").read_text("utf-8"))
        except (OSError, ValueError):
            return None

    def _record_size(self, taken: int) -> None:
        partial = self.folder / "size.tmp"
        partial.write_text(str(taken), "utf-8")
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
        """Yield (time of last use, size, path) of every piece, including pieces that are being written.

        Files of other names, and links, are none of them.
        """
        for folder in os.scandir(self.folder):
            if _PART.fullmatch(folder.name) and folder.is_dir(follow_symlinks=False):
                for entry in os.scandir(folder):
                    if _PIECE.fullmatch(entry.name) and entry.name.startswith(folder.name):
                        with suppress(FileNotFoundError):
                            status = entry.stat(follow_symlinks=False)
                            if stat.S_ISREG(status.st_mode):
                                yield status.st_mtime, status.st_size, entry.path

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
