"""Locations of files, and reading of remote files by ranges through fsspec, with retries and time-outs.

A location is a string: a local path, or a URL like `s3://bucket/folder/train-000000.tar`. Credentials are those of the
store's own tools (AWS_* and similar variables, or fsspec's configuration files).
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
import tempfile
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import fsspec
from fsspec.asyn import AsyncFileSystem, sync

from configs.command import Temporary
from configs.schema_training import DataConfig

log = logging.getLogger(__name__)

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
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
    """A store did not answer after all retries. Nothing is known of the file."""


class CutOff(OSError):
    """A file in a store ends before the requested bytes do."""


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
        CutOff if the store says so; Unreachable if it does not answer; ValueError if it ignores ranges or if its
        package is not installed.
        """
        system = _file_system(url.partition("://")[0].lower(), os.getpid())
        for attempt in range(self.retries + 1):
            try:
                return _checked_answer(self._request(system, url, start, stop), url, start, stop)
            except (FileNotFoundError, PermissionError, ValueError):
                raise
            except Exception as error:  # each backend has its own exceptions, and they change
                last = _SHORT_TRIES - 1 if isinstance(error, CutOff) else self.retries
                if attempt >= min(last, self.retries) or not _is_transient(error):
                    raise _final_error(error, url, attempt + 1) from error
                log.info("%s: %s; asking again", url, _reason(error))
                time.sleep(_wait_seconds(attempt))
        raise AssertionError("there is a first attempt")

    def _request(self, system: Any, url: str, start: int | None, stop: int | None) -> bytes:
        if isinstance(system, AsyncFileSystem):
            return sync(system.loop, system._cat_file, url, start=start, end=stop, timeout=self.timeout_s)
        return system.cat_file(url, start=start, end=stop)


def storage_of(data: DataConfig) -> Storage:
    """Settings for remote files of a run."""
    parent = Path(data.cache_dir or tempfile.gettempdir()).expanduser()
    return Storage(parent, int(data.cache_gb * 2**30), data.retries, data.timeout_s)


@lru_cache(maxsize=64)
def _file_system(protocol: str, pid: int) -> Any:
    """File system of a protocol. `pid` is part of the cache's key, so that a fork opens its own.

    Raises ValueError if the protocol is unknown or its package is not installed.
    """
    try:
        return fsspec.filesystem(protocol)
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        remedy = f": pip install {package} (into .venv)" if package else ""
        raise ValueError(f"{protocol}:// cannot be read here ({error}){remedy}") from None
    except ValueError:
        raise ValueError(f"{protocol}:// is not known: give a path, s3://, gs://, http:// or https://") from None


def _checked_answer(data: bytes, url: str, start: int | None, stop: int | None) -> bytes:
    """Return `data`, if it has the requested number of bytes.

    Raises ValueError if it is longer (the server ignores ranges), CutOff if it is shorter.
    """
    if start is None or stop is None:
        return data
    if len(data) > stop - start:
        raise ValueError(f"{url}: the server ignores ranges: it sent {len(data)} bytes for {stop - start}; use another")
    if len(data) < stop - start:
        raise CutOff(f"{len(data)} of {stop - start} bytes from byte {start} on")
    return data


def _is_transient(error: Exception) -> bool:
    """True if another attempt may help. HTTP 4xx means a wrong request, except 408, 425 and 429."""
    status = getattr(error, "status", None)
    return not (isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429))


def _final_error(error: Exception, url: str, attempts: int) -> OSError:
    """PermissionError, CutOff or Unreachable, for the last error of a backend."""
    if getattr(error, "status", None) in (401, 403):
        return PermissionError(f"{url}: {_reason(error)}; check the credentials of the store")
    kind = CutOff if isinstance(error, CutOff) or getattr(error, "status", None) == 416 else Unreachable
    return kind(f"{url}: {_reason(error)} (tried {attempts} times)")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _wait_seconds(attempt: int) -> float:
    """Seconds before the next attempt: doubled each time, and spread so that processes do not retry all at once."""
    spread = 0.5 + (time.monotonic_ns() // 1000 % 1000) / 1000
    return spread * min(_FIRST_WAIT_S * 2**attempt, _LONGEST_WAIT_S)
