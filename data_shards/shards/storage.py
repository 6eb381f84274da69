"""Locations of files, and reading of remote files by ranges through fsspec, with retries and time-outs.

A location is a string: a local path, or a URL like `s3://bucket/folder/train-000000.tar`. Credentials are those of the
store's own tools (AWS_* and similar variables, or fsspec's configuration files).
"""

from __future__ import annotations

import errno
import logging
import os
import posixpath
import re
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

import fsspec
from fsspec.asyn import AsyncFileSystem, sync

from configs.command import Temporary
from configs.schema_training import DataConfig

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_VERSIONS = ("ETag", "etag", "mtime", "LastModified", "created")
"""Facts of a remote file that change with it; each backend has some of them."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 20.0
_SHORT_TRIES = 3  # after this many short answers the file is taken to end there


def is_remote(location: str) -> bool:
    """True for a URL, except `file://`."""
    return _URL.match(location) is not None and not location.startswith("file://")


def is_http(location: str) -> bool:
    """True for a URL of HTTP, in which names are percent-encoded."""
    return location.startswith(("http://", "https://"))


def local_path(location: str) -> Path:
    """Path of a location that is not remote. `~` is expanded."""
    if location.startswith("file://"):
        location = unquote(urlsplit(location).path)
    return Path(os.path.expanduser(location))


def folder_of(location: str) -> str:
    """Location of the folder that holds a file."""
    return posixpath.dirname(location)


def name_of(location: str) -> str:
    """Name of a file in its folder, percent-decoded."""
    name = posixpath.basename(location)
    return unquote(name) if is_http(location) else name


def join_location(folder: str, name: str) -> str:
    """Location of the file `name` in a folder; percent-encoded if the folder is a URL of HTTP."""
    return posixpath.join(folder, quote(name) if is_http(folder) else name)


class Unreachable(OSError, Temporary):
    """An outage: a store or a file system does not give the bytes. Nothing is known of them.

    A run ends with it, and goes on once the bytes are there: replacing samples would give it other data.
    """


class CutOff(OSError):
    """A file in a store ends before the requested bytes do."""


class IgnoresRanges(ValueError):
    """A server sends whole files where parts of them are asked for."""


@dataclass(frozen=True)
class Storage:
    """Settings for reading remote files, and for their cache on this node."""

    cache_dir: Path
    """Folder in which the cache has its own."""
    cache_bytes: int
    retries: int
    timeout_s: float

    def fetch(self, url: str, start: int | None = None, stop: int | None = None) -> bytes:
        """Fetch bytes start .. stop (excluded) of a remote file, or all of it.

        A short or failed answer is requested again, after growing waits. Raises FileNotFoundError, PermissionError or
        CutOff if the store says so; Unreachable if it does not answer, or with something else than the file;
        IgnoresRanges; ValueError if its package is not installed.
        """
        system = _file_system(url.partition("://")[0].lower(), os.getpid())

        def request() -> bytes:
            return _checked_answer(self._call(system, "cat_file", url, start=start, end=stop), url, start, stop)

        def ended() -> bool:
            return stop is not None and self._size(system, url, default=stop) < stop

        return self._asked(url, request, ended)

    def _asked(self, url: str, request: Callable[[], Answer], ended: Callable[[], bool] = lambda: False) -> Answer:
        """Return the answer to a request, which is repeated as `fetch` says.

        ended: True if the store says that the file ends before the requested bytes do.
        """
        for attempt in range(self.retries + 1):
            try:
                return request()
            except FileNotFoundError:
                raise FileNotFoundError(errno.ENOENT, "not found in the store", url) from None
            except (PermissionError, IgnoresRanges):
                raise
            except Exception as error:  # each backend has its own exceptions, and they change
                last = _SHORT_TRIES - 1 if isinstance(error, CutOff) else self.retries
                if attempt >= min(last, self.retries) or not _is_transient(error):
                    raise _final_error(error, url, attempt + 1, ended()) from error
                log.info("%s: %s; asking again", url, _reason(error))
                time.sleep(_wait_seconds(attempt))
        raise AssertionError("there is a first attempt")

    def find(self, url: str) -> list[tuple[str, int, int]]:
        """Return the files below a URL as (path below it, size, a number that changes with the file).

        Raises FileNotFoundError, PermissionError, Unreachable or ValueError as `fetch`.
        """
        system = _file_system(url.partition("://")[0].lower(), os.getpid())
        found = self._asked(url, lambda: self._call(system, "find", url, detail=True))
        root = system._strip_protocol(url).rstrip("/") + "/"
        listed = []
        for path, facts in found.items():
            size = facts["size"] if facts.get("size") is not None else self._size(system, path, default=0)
            version = [str(facts.get(key)) for key in _VERSIONS]
            listed.append((path.removeprefix(root), int(size), zlib.crc32(repr(version).encode())))
        return listed

    def send(self, path: Path, url: str) -> None:
        """Send a local file, whole; a failed attempt is repeated as in `fetch`.

        Raises FileNotFoundError or PermissionError if the store says so; Unreachable if it does not answer, or has
        another number of bytes afterwards; ValueError if its package is not installed.
        """
        system = _file_system(url.partition("://")[0].lower(), os.getpid())

        def request() -> None:
            if isinstance(system, AsyncFileSystem):  # without a time-out: nobody knows how long a file may take
                sync(system.loop, system._put_file, str(path), url)
            else:
                system.put_file(str(path), url)
            system.invalidate_cache()
            if (there := self._size(system, url, default=-1)) != (size := path.stat().st_size):
                raise OSError(f"{there} of {size} bytes are there after it was sent")

        self._asked(url, request)

    def remove(self, url: str) -> None:
        """Remove a file of the store. Raises as `send`."""
        system = _file_system(url.partition("://")[0].lower(), os.getpid())
        self._asked(url, lambda: self._call(system, "rm_file", url))

    def _size(self, system: Any, url: str, default: int) -> int:
        """Return the size of a remote file, `default` if the store does not tell it."""
        try:
            size = self._call(system, "info", url)["size"]
        except Exception:  # each backend has its own
            return default
        return size if isinstance(size, int) else default

    def _call(self, system: Any, method: str, url: str, **arguments: Any) -> Any:
        """Call a method of a file system, within the time-out where the system has one."""
        if isinstance(system, AsyncFileSystem):
            return sync(system.loop, getattr(system, f"_{method}"), url, **arguments, timeout=self.timeout_s)
        return getattr(system, method)(url, **arguments)


def storage_of(data: DataConfig) -> Storage:
    """Settings for remote files of a run."""
    parent = Path(data.cache_dir or tempfile.gettempdir())
    return Storage(parent, int(data.cache_gb * 2**30), data.retries, data.timeout_s)


@lru_cache(maxsize=64)
def _file_system(protocol: str, pid: int) -> Any:
    """File system of a protocol. `pid` is part of the cache's key, so that a fork opens its own.

    Raises ValueError if the protocol is unknown or its package is not installed.
    """
    options: dict[str, Any] = {}
    if is_http(f"{protocol}://"):
        given = fsspec.config.conf.get(protocol, {}).get("client_kwargs", {})  # the user's, as headers
        options["client_kwargs"] = {**given, "raise_for_status": _refuse_other_answers}
    try:
        return fsspec.filesystem(protocol, **options)
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        remedy = f": pip install {package} (into .venv)" if package else ""
        raise ValueError(f"{protocol}:// cannot be read here ({error}){remedy}") from None
    except ValueError:
        raise ValueError(f"{protocol}:// is not known: give a path, s3://, gs://, http:// or https://") from None


async def _refuse_other_answers(response: Any) -> None:
    """Raise OSError for an answer of HTTP that is no file: a redirect to nowhere, or a page, as a proxy's login."""
    redirect, page = 300 <= response.status < 400, response.status < 300 and response.content_type == "text/html"
    if redirect or page:
        response.close()
        what = "a redirect that leads nowhere" if redirect else "a page of HTML in place of the file"
        raise OSError(f"{what} (HTTP {response.status})")


def _checked_answer(data: bytes, url: str, start: int | None, stop: int | None) -> bytes:
    """Return `data`, if it has the requested number of bytes.

    Raises IgnoresRanges if it is longer, CutOff if it is shorter.
    """
    if start is None or stop is None:
        return data
    if len(data) > stop - start:
        sent = f"it sent {len(data)} bytes for {stop - start}"
        raise IgnoresRanges(f"{url}: the server ignores ranges: {sent}; use another")
    if len(data) < stop - start:
        raise CutOff(f"{len(data)} of {stop - start} bytes from byte {start} on")
    return data


def _is_transient(error: Exception) -> bool:
    """True if another attempt may help. HTTP 4xx means a wrong request, except 408, 425 and 429."""
    status = getattr(error, "status", None)
    return not (isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429))


def _final_error(error: Exception, url: str, attempts: int, ended: bool) -> OSError:
    """PermissionError, CutOff or Unreachable, for the last error of a backend.

    ended: True if the store says that the file ends before the requested bytes do.
    """
    if getattr(error, "status", None) in (401, 403):
        return PermissionError(f"{url}: {_reason(error)}; check the credentials of the store")
    kind = CutOff if ended else Unreachable
    return kind(f"{url}: {_reason(error)} (tried {attempts} times)")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _wait_seconds(attempt: int) -> float:
    """Seconds before the next attempt: doubled each time, and spread so that processes do not retry all at once."""
    spread = 0.5 + (time.monotonic_ns() // 1000 % 1000) / 1000
    return spread * min(_FIRST_WAIT_S * 2**attempt, _LONGEST_WAIT_S)
