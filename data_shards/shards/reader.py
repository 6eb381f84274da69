"""Reading samples by their place in the index. Their checksum is checked on every read.

A local shard is read in place. A remote shard is fetched in whole chunks into the node's cache, once for all processes
of the node; samples are read from there.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from configs.schema_training import DataConfig
from data_shards.shards.bad_sample import BadSample, Report
from data_shards.shards.chunks import ROW_FORMAT, chunk_identity, chunk_span, ensure_cached, row_bytes
from data_shards.shards.index import Index
from data_shards.shards.sidecar import crc32
from data_shards.shards.storage import CutOff, Unreachable, is_remote, local_path
from data_shards.shards.tar import Sample, best_effort_name, parse_sample

_OPEN_FILES = 256  # shards whose file descriptor a process keeps
_RETRIES_S = (0.1, 0.5, 2.0)  # waits before the retries of a read: file servers fail over, and handles become stale
_NO_ROOM_S = 30.0  # pause in fetching chunks after the cache had no room for one
_MIB = 2**20
_UNPACK_ROW, _ROW_SIZE = ROW_FORMAT.unpack_from, ROW_FORMAT.size


class _Shard(NamedTuple):
    descriptor: int | None
    """None for a remote shard."""
    rows: memoryview
    """Rows of the sidecar, as bytes."""


class Reader:
    """Reader of samples by id. Each process opens a shard when it first reads from it."""

    def __init__(self, index: Index, chunk: int | None = None, max_sample_mb: int | None = None) -> None:
        """chunk: samples per chunk, as in the order. Both options default to the values of `DataConfig`."""
        self._index = index
        self._chunk = chunk or index.chunk(DataConfig().chunk_bytes)
        self._limit = (max_sample_mb or DataConfig().max_sample_mb) * _MIB
        self._reset()

    def _reset(self) -> None:
        self._open: dict[int, _Shard] = {}  # in the order of opening: the first is closed first
        self._broken: set[tuple[int, int]] = set()
        """(shard, chunk) of the chunks that end behind the end of their file in the store."""
        self._no_room_until = 0.0
        self.bytes_read = 0
        """Bytes of samples."""
        self.cache_hits = self.cache_misses = 0
        """Remote samples whose chunk was on this node, and remote samples whose bytes had to be fetched."""

    def __getstate__(self) -> dict:
        return {"_index": self._index, "_chunk": self._chunk, "_limit": self._limit}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._reset()

    def read(self, sample: int) -> Sample:
        """Read a sample.

        Raises BadSample if its bytes differ from the indexed ones or are not there, Unreachable if they cannot be read,
        ValueError if that is a mistake: a sidecar that is not there or another one, a server that ignores ranges.
        """
        number, row = self._index.locate(sample)
        blocks = self._read_fast(number, row) or self._read_verified(number, row)
        self.bytes_read += len(blocks)
        try:
            return parse_sample(blocks)
        except Exception as error:  # tarfile raises any exception on bytes that are no tar
            raise BadSample("format", f"no tar members: {error}") from error

    def report(self, sample: int, error: BadSample) -> Report:
        """Log entry of a bad sample. Its key is read from local bytes alone, if possible."""
        number, row = self._index.locate(sample)
        try:
            name = best_effort_name(self._read_start(number, row), row)
        except (OSError, ValueError, OverflowError):
            name = f"row {row}"
        return Report(self._index.paths[number], name, error.kind, str(error))

    def name(self, sample: int) -> str:
        """Shard and key of a sample, for people; the row if the sample cannot be read."""
        try:
            return f"{self._index.paths[self._index.locate(sample)[0]]}: {self.read(sample).key}"
        except BadSample as error:
            report = self.report(sample, error)
            return f"{report.shard}: {report.sample}"

    def close(self) -> None:
        """Close all open shards."""
        for number in list(self._open):
            self._close(number)

    def _read_fast(self, number: int, row: int) -> bytes | None:
        """Bytes of a sample, if its shard is local, open and undamaged; else None.

        Nearly every read ends here, so this takes as few operations as possible.
        """
        shard = self._open.get(number)
        if shard is None:
            return None
        descriptor, rows = shard
        offset, size, crc, _ = _UNPACK_ROW(rows, row * _ROW_SIZE)
        if descriptor is None or size > self._limit:
            return None
        try:
            blocks = os.pread(descriptor, size, offset)
        except (OSError, OverflowError):
            return None
        return blocks if crc32(blocks) == crc else None

    def _read_verified(self, number: int, row: int) -> bytes:
        """Bytes of a sample, equal to the indexed ones. Raises as `read`."""
        try:
            blocks, crc = self._read_with_retries(number, row)
            if crc32(blocks) == crc:
                return blocks
            if is_remote(self._index.paths[number]):
                blocks = self._refetch(number, row)  # perhaps only the copy on this node is damaged
                if crc32(blocks) == crc:
                    return blocks
        except (CutOff, OverflowError) as error:  # OverflowError: an absurd offset in the sidecar
            raise BadSample("unreadable", f"{type(error).__name__}: {error}") from error
        except Unreachable:
            raise
        except OSError as error:  # no property of the sample: replacing it would give this run other data than others
            raise Unreachable(f"{self._index.paths[number]}: {error.strerror or error}") from error
        reason = f"checksum of its {len(blocks)} bytes differs from the index (damaged or truncated shard)"
        raise BadSample("checksum", reason)

    def _read_with_retries(self, number: int, row: int) -> tuple[bytes, int]:
        """Read as `_read_once`. A file that cannot be read is opened anew, after each wait of `_RETRIES_S`."""
        for wait in _RETRIES_S:
            try:
                return self._read_once(number, row)
            except (FileNotFoundError, PermissionError, Unreachable, CutOff):
                raise
            except OSError:
                self._close(number)
                time.sleep(wait)
        return self._read_once(number, row)

    def _read_once(self, number: int, row: int) -> tuple[bytes, int]:
        """(bytes of a sample, their checksum according to the index).

        Raises OSError or ValueError if they cannot be read, BadSample if the sample is too large.
        """
        shard = self._open_shard(number)
        offset, size, crc, _ = ROW_FORMAT.unpack_from(shard.rows, row * ROW_FORMAT.size)
        if size > self._limit:
            raise BadSample("too_large", f"{size / _MIB:,.1f} MiB, more than data.max_sample_mb={self._limit // _MIB}")
        if shard.descriptor is not None:
            return os.pread(shard.descriptor, size, offset), crc
        return self._read_remote(number, row, shard, offset, size), crc

    def _read_remote(self, number: int, row: int, shard: _Shard, offset: int, size: int) -> bytes:
        """Bytes of a remote sample, from its chunk in the cache, or from the store if the chunk cannot be cached.

        The cached file is closed after the read: an open file would keep its disk space after its removal.
        """
        key, index = (number, row // self._chunk), self._index
        start, stop = chunk_span(shard.rows, row, self._chunk)
        if key not in self._broken and time.monotonic() >= self._no_room_until:
            try:
                path, data = ensure_cached(index, number, start, stop)
            except CutOff:  # the shard ends within the chunk
                self._broken.add(key)
            else:
                if path is None:
                    self._no_room_until = time.monotonic() + _NO_ROOM_S
                if data is not None:
                    self.cache_misses += 1
                    return data[offset - start : offset - start + size]
                assert path
                with suppress(OSError):  # removed to make room, or the cache's disk has failed
                    blocks = _read_range(path, offset - start, size)
                    self.cache_hits += 1
                    return blocks
        self.cache_misses += 1
        return index.storage.fetch(index.paths[number], offset, offset + size)

    def _refetch(self, number: int, row: int) -> bytes:
        """Bytes of a sample from the store itself. If they are sound, the cached chunk is damaged, and dropped."""
        shard = self._open_shard(number)
        offset, size, crc, _ = ROW_FORMAT.unpack_from(shard.rows, row * ROW_FORMAT.size)
        blocks = self._index.storage.fetch(self._index.paths[number], offset, offset + size)
        if crc32(blocks) == crc:
            self._index.cache.drop(chunk_identity(self._index, number, *chunk_span(shard.rows, row, self._chunk)))
        return blocks

    def _read_start(self, number: int, row: int) -> bytes:
        """Up to 512 first bytes of a sample, without a request to a store.

        Raises ValueError or OSError if they are not on this node.
        """
        if number not in self._open and is_remote(self._index.paths[number]):
            raise ValueError("its sidecar is not here")
        shard = self._open_shard(number)
        offset, size, _, _ = ROW_FORMAT.unpack_from(shard.rows, row * ROW_FORMAT.size)
        if shard.descriptor is not None:
            return os.pread(shard.descriptor, min(size, 512), offset)
        start, stop = chunk_span(shard.rows, row, self._chunk)
        path = self._index.cache.path(chunk_identity(self._index, number, start, stop))
        return _read_range(path, offset - start, min(size, 512))

    def _open_shard(self, number: int) -> _Shard:
        """Open a shard unless it is open. Closes the first one opened if more than `_OPEN_FILES` are open."""
        if number in self._open:
            return self._open[number]
        location = self._index.paths[number]
        rows = row_bytes(self._index, number)
        descriptor = None if is_remote(location) else os.open(local_path(location), os.O_RDONLY | os.O_CLOEXEC)
        self._open[number] = shard = _Shard(descriptor, rows)
        if len(self._open) > _OPEN_FILES:
            self._close(next(iter(self._open)))
        return shard

    def _close(self, number: int) -> None:
        """Close a shard, if it is open."""
        if (shard := self._open.pop(number, None)) and shard.descriptor is not None:
            os.close(shard.descriptor)


def _read_range(path: Path, offset: int, size: int) -> bytes:
    """Bytes offset .. offset + size (excluded) of a file; fewer at its end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)
