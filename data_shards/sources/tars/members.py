"""Samples of a tar that the webdataset library opens and groups: a file, a URL, a pipe; compressed or not.

Nothing is decoded here, so that no member can run code. Damage ends a tar; the samples before it are kept.
"""

from __future__ import annotations

import gzip
import io
import lzma
import sys
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from configs.output.secrets import masked
from configs.schema_training import DataConfig
from data_shards.shards.tar import SKIPPED, Members, is_foreign
from data_shards.sources.tables.fields import one_line
from data_shards.sources.units import LeftOut, Unusable

LARGEST = DataConfig().max_sample_mb * 2**20
"""Largest member in bytes, compressed or not. Runs leave larger samples out by default."""
_DAMAGE = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, zstd.ZstdError, OverflowError, ValueError)
_TOO_LARGE = f"larger than {LARGEST >> 20} MiB"
_DRAINED = 2**20


_tar: Any = tarfile  # the errors of headers are missing in its stubs


class _Header(tarfile.TarInfo):
    """A header that raises an error where tarfile would take damage for the end of the archive, or skip it."""

    @classmethod
    def fromtarfile(cls, archive: Any) -> _Header:
        """Read the next header. Raises ReadError for damage, EOFHeaderError for the archive's blocks of zeros."""
        try:
            return super().fromtarfile(archive)
        except _tar.EOFHeaderError:
            archive.ended = True
            raise
        except _tar.EmptyHeaderError:
            if not getattr(archive, "ended", False):
                raise tarfile.ReadError("no end-of-archive block: cut off, or empty") from None
            raise
        except tarfile.HeaderError as error:
            if getattr(archive, "ended", False) and isinstance(error, _tar.TruncatedHeaderError):
                raise _tar.EmptyHeaderError(str(error)) from None  # padding that is no whole block
            raise tarfile.ReadError(f"damaged header: {error}") from None


class _Reading:
    """One pass over a tar: the members as they come, and how it ended."""

    def __init__(self, url: str, left_out: LeftOut) -> None:
        self.url, self.shown, self.left_out = url, masked(url), left_out
        self.member = ""
        """The member whose header was read last."""
        self.damage = ""
        self.failure: OSError | None = None

    @property
    def cut(self) -> bool:
        """True if the sample of the last member may be incomplete."""
        return bool(self.damage or self.failure)

    def files(self) -> Iterator[dict]:
        """Yield the plain files that may be a sample's members, as webdataset groups them."""
        source, ended = None, False
        try:
            source = _opened(self.url)
            stream: Any = zstd.ZstdFile(source) if self.url.endswith(".zst") else source
            with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Header, ignore_zeros=True) as archive:
                yield from self._members(archive)
            ended = True
        except _DAMAGE as error:
            self.damage, ended = one_line(error), True
        except OSError as error:  # without a number: of bz2, or of a command, which `_failure` knows better
            self.damage, ended = one_line(error), True
            self.failure = None if error.errno is None and source else error
        finally:
            self.failure = _closed(source, ended) or self.failure
        self._report()

    def _members(self, archive: Any) -> Iterator[dict]:
        for member in archive:
            archive.members = []  # or all headers stay in memory
            self.member = name = member.name.removeprefix("./").lstrip("/")
            if member.isdir():
                continue
            if is_foreign(name) or SKIPPED.match(name):
                self._leave_out("members of no sample: hidden, or without an extension", name)
            elif not member.isfile() or member.issparse():
                self._leave_out("no plain file (a link, a device, sparse)", name)
            elif member.size > LARGEST:
                self._leave_out(_TOO_LARGE, f"{name}, {member.size >> 20} MiB")
            elif file := archive.extractfile(member):
                yield {"fname": name, "data": file.read(), "__url__": self.url}

    def _leave_out(self, reason: str, what: str) -> None:
        self.left_out.add(reason, f"{self.shown} ({what})")

    def _report(self) -> None:
        """Tell how the tar ended: a store that fails looks like a tar that is cut off."""
        if self.failure:
            self.left_out.add_unreadable(self.shown, self.failure)
        elif self.damage:
            self._leave_out("damaged or incomplete; used up to there", self.damage)

    def twice(self, error: Exception) -> bool:
        """Handle the only error of grouping. Returns True, as webdataset's handlers that go on."""
        self._leave_out("a member that is there twice; the first is used", str(error.args[0]))
        return True

    def belongs_to_last(self, key: str) -> bool:
        """True if the member that was read last belongs to a sample."""
        folder, _, base = self.member.rpartition("/")
        return f"{folder}/{base.partition('.')[0]}".lstrip("/") == key


def read_samples(url: str, left_out: LeftOut) -> Iterator[tuple[str, Members]]:
    """Yield (key, members by extension in lower case) of a tar. Adds what cannot be read to `left_out`.

    The sample in which a damage lies is left out.
    """
    from webdataset.tariterators import group_by_keys  # its package imports torch, which takes seconds

    reading = _Reading(url, left_out)
    for sample in group_by_keys(reading.files(), handler=reading.twice):
        key, members = sample["__key__"], {name: data for name, data in sample.items() if not name.startswith("__")}
        if reading.cut and reading.belongs_to_last(key):
            left_out.add("incomplete: its tar is damaged or cut off there", f"{reading.shown}, key {key}")
        elif members:
            yield key, members


def _opened(url: str) -> Any:
    """Open a file, a URL or a pipe by webdataset. Raises OSError."""
    from webdataset.gopen import gopen

    try:
        return gopen(url)
    except (OSError, AssertionError):
        raise
    except Exception as error:  # as ImportError, for a store whose package is missing
        raise OSError(f"cannot be opened: {one_line(error)}") from error


def _closed(source: Any, ended: bool) -> OSError | None:
    """Close a file, a URL or a pipe; returns the error of the command that read it, if it failed.

    ended: it was read to its end, or to a damage; else its reader has seen enough, and its command is stopped.
    """
    from webdataset.gopen import Pipe

    failure = None
    if isinstance(source, Pipe):
        while ended and source.stream.read(_DRAINED):
            pass
        if not ended:
            source.proc.kill()
        status = source.proc.wait()
        if ended and status not in source.ignore_status:
            failure = OSError(f"the command that reads it ended with {status}")
    if source is not None:
        with suppress(OSError):
            source.close()
    return failure


def unpacked(name: str, data: bytes) -> bytes:
    """Bytes of a member, decompressed if its name ends with `.gz`. Raises Unusable if they are damaged or too many."""
    if not name.endswith(".gz"):
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            plain = file.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Unusable("damaged gzip", f".{name}: {one_line(error)}") from None
    if len(plain) > LARGEST:
        raise Unusable(_TOO_LARGE, f".{name}, decompressed")
    return plain
