"""Archives and remote folders whose files are read in place, as those of a local folder are.

All three are small and frozen, so that a unit of a build takes its own along to any process.
"""

from __future__ import annotations

import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from configs.schema_training import DataConfig
from data_shards.shards.storage import Storage, is_http, is_remote, join_location, storage_of

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar")
_ENCRYPTED = 0x1  # a flag of a zip member
_BAD_ZIP = (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, ValueError, RuntimeError)
"""Exceptions of zipfile for damaged members; each of its decompressors has its own."""


class Entry(NamedTuple):
    """A file in a store."""

    name: str
    """Path below the store, with `/`."""
    size: int
    version: int
    """A number that changes when the file does: its time, or a checksum."""
    problem: str = ""
    """Reason why it cannot be read; "" if it can."""


class DamagedMember(Exception):
    """Bytes of a file that cannot be unpacked."""


class Store(Protocol):
    """Files below an archive or a URL."""

    @property
    def location(self) -> str:
        """Path of the archive, or the URL."""

    def entries(self) -> Iterator[Entry]:
        """Yield all files. Raises ValueError if the store cannot be read, Unreachable if it does not answer."""

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises DamagedMember, OSError (Unreachable for an outage) or ValueError if the store has changed.
        """


@dataclass(frozen=True)
class Zip:
    """A zip archive."""

    location: str

    def entries(self) -> Iterator[Entry]:
        archive = _opened_zip(self.location, os.getpid())
        last = {info.filename: info for info in archive.infolist()}
        for info in archive.infolist():
            if not info.is_dir():
                encrypted = "encrypted in the archive" * bool(info.flag_bits & _ENCRYPTED)
                twice = "replaced in the archive by a later file of this name" * (last[info.filename] is not info)
                yield Entry(info.filename, info.file_size, info.CRC, encrypted or twice)

    def read(self, name: str) -> bytes:
        try:
            return _opened_zip(self.location, os.getpid()).read(name)
        except KeyError:
            raise ValueError(f"{self.location} changed during the build: {name} went away; build again") from None
        except OSError:
            raise
        except _BAD_ZIP as error:
            raise DamagedMember(f"{error}") from error


@dataclass(frozen=True)
class Tar:
    """A tar archive that is not compressed."""

    location: str

    def entries(self) -> Iterator[Entry]:
        found, damaged = _tar_members(self.location, os.getpid())
        for info in found:
            if info.isfile():
                yield Entry(info.name, info.size, int(info.mtime))
            elif not info.isdir():
                yield Entry(info.name, 0, 0, "a link or a device in the archive")
        if damaged:
            after = f"what follows {found[-1].name}" if found else "everything"
            yield Entry(after, 0, 0, f"damaged in the archive: {damaged}")

    def read(self, name: str) -> bytes:
        start, size = _tar_places(self.location, os.getpid()).get(name, (0, -1))
        if size < 0:
            raise ValueError(f"{self.location} changed during the build: {name} went away; build again")
        file = _opened(self.location, os.getpid())
        file.seek(start)
        data = file.read(size)
        if len(data) < size:
            raise DamagedMember(f"{len(data)} of {size} bytes")
        return data


@dataclass(frozen=True)
class Remote:
    """A folder behind a URL."""

    location: str

    def entries(self) -> Iterator[Entry]:
        yield from (Entry(*found) for found in _storage().find(self.location))

    def read(self, name: str) -> bytes:
        try:
            return _storage().fetch(join_location(self.location.rstrip("/"), name))
        except FileNotFoundError:
            raise ValueError(f"{self.location}: {name} went away during the build; build again") from None


def store_of(location: str) -> Store | None:
    """Return the store that `input` names; None for a folder or a file of this machine.

    Raises ValueError for archives that cannot be read in place.
    """
    name = location.lower()
    if is_remote(location):
        if name.endswith((".zip", ".tar", *_COMPRESSED)):
            raise ValueError(f"input={location}: archives are read from local disks: copy it here, and name the copy")
        if is_http(location):
            raise ValueError(f"input={location}: HTTP lists no folders: copy the files here, or give s3:// or gs://")
        return Remote(location)
    if Path(location).is_dir():
        return None
    if name.endswith(_COMPRESSED):
        raise ValueError(
            f"input={location} is compressed as a whole, so that single files cannot be read in place: unpack it, or "
            "make it a .tar (gunzip) or .zip"
        )
    if not name.endswith((".zip", ".tar")):
        return None
    if not Path(location).is_file():
        raise ValueError(f"input={location} is not there: give a folder, an archive or a URL")
    return Zip(location) if name.endswith(".zip") else Tar(location)


def _storage() -> Storage:
    return storage_of(DataConfig())


@lru_cache(maxsize=4)
def _opened_zip(location: str, pid: int) -> zipfile.ZipFile:
    """Open an archive once in each process: reading its directory takes long. Raises ValueError if it is none."""
    try:
        return zipfile.ZipFile(location)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ValueError(f"input={location} cannot be read as a zip archive ({error}): get it again") from error


@lru_cache(maxsize=4)
def _opened(location: str, pid: int) -> BinaryIO:
    return open(location, "rb")


@lru_cache(maxsize=4)
def _tar_members(location: str, pid: int) -> tuple[list[tarfile.TarInfo], str]:
    """Return the members of a tar, and what is wrong behind them. Raises ValueError if it begins as none."""
    found: list[tarfile.TarInfo] = []
    try:
        with tarfile.open(location, "r:") as archive:
            while info := archive.next():
                found.append(info)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        if not found:
            raise ValueError(f"input={location} cannot be read as a tar archive ({error}): get it again") from error
        return found, str(error)
    return found, ""


@lru_cache(maxsize=4)
def _tar_places(location: str, pid: int) -> dict[str, tuple[int, int]]:
    """Return (offset, size) of each file of a tar, by name."""
    members, _ = _tar_members(location, pid)
    return {info.name: (info.offset_data, info.size) for info in members if info.isfile()}
