"""The bytes of a sample, by its place in the index, checked on every read."""

from __future__ import annotations

import os
import time
import zlib
from collections import OrderedDict
from typing import NamedTuple

import numpy as np

from data_shards.batch import Sample
from data_shards.index import Index, read_rows
from data_shards.tar import damaged_name, parse_sample

_OPEN_SHARDS = 128  # file descriptors per process
_RETRIES_S = (0.1, 0.5, 2.0)  # waits before a read is tried again: file servers fail over, and handles become stale


class BadSample(Exception):
    """A sample that cannot be used; the text says why."""


class Report(NamedTuple):
    """One bad sample, for the log."""

    shard: str
    sample: str
    """Its key as far as it can be read, and its row."""
    reason: str


class _Shard(NamedTuple):
    descriptor: int
    rows: np.ndarray


class Reader:
    """Reads samples by id. Each process opens the shards for itself, when it first needs them."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._open: OrderedDict[int, _Shard] = OrderedDict()

    def __getstate__(self) -> dict:
        return {"_index": self._index, "_open": OrderedDict()}

    def _shard(self, number: int) -> _Shard:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        path = self._index.paths[number]
        rows = read_rows(path)
        self._open[number] = shard = _Shard(os.open(path, os.O_RDONLY | os.O_CLOEXEC), rows)
        if len(self._open) > _OPEN_SHARDS:
            os.close(self._open.popitem(last=False)[1].descriptor)
        return shard

    def _blocks(self, sample: int) -> tuple[bytes, int]:
        """The sample's bytes in its tar, and their checksum according to the index. OSError, or ValueError."""
        number, row = self._index.locate(sample)
        shard = self._shard(number)
        offset, size, crc, _ = shard.rows[row].tolist()
        return os.pread(shard.descriptor, size, offset), crc

    def _patient_blocks(self, sample: int) -> tuple[bytes, int]:
        """As `_blocks`; a shard that cannot be read is opened anew, BadSample where that does not help."""
        try:
            for wait in _RETRIES_S:
                try:
                    return self._blocks(sample)
                except (FileNotFoundError, PermissionError):
                    raise
                except OSError:
                    self._close(self._index.locate(sample)[0])
                    time.sleep(wait)
            return self._blocks(sample)
        except (OSError, ValueError) as error:
            raise BadSample(str(error)) from error

    def read(self, sample: int) -> Sample:
        """The sample's members; BadSample where its bytes are not those that were indexed."""
        blocks, crc = self._patient_blocks(sample)
        if zlib.crc32(blocks) != crc:
            raise BadSample(f"checksum of its {len(blocks)} bytes differs from the index (damaged or truncated shard)")
        try:
            return Sample(*parse_sample(blocks))
        except Exception as error:  # tarfile raises anything on what is no tar
            raise BadSample(f"no tar members: {error}") from error

    def report(self, sample: int, reason: str) -> Report:
        """Name a bad sample: best effort, from the bytes that are there."""
        number, row = self._index.locate(sample)
        try:
            name = damaged_name(self._blocks(sample)[0], row)
        except (OSError, ValueError):
            name = f"row {row}"
        return Report(str(self._index.paths[number]), name, reason)

    def _close(self, number: int) -> None:
        """Close a shard if it is open."""
        if shard := self._open.pop(number, None):
            os.close(shard.descriptor)

    def close(self) -> None:
        """Close the shards that are open."""
        for number in list(self._open):
            self._close(number)
