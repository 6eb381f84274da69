"""Chunks of shards: runs of consecutive samples that the order keeps together and that are fetched at once."""

from __future__ import annotations

import struct
from pathlib import Path

from data_shards.shards.index import Index
from data_shards.shards.sidecar import ROW
from data_shards.shards.storage import is_remote

ROW_FORMAT = struct.Struct("<QIII")
"""A row of a sidecar: offset, size, crc, length."""
assert ROW_FORMAT.size == ROW.itemsize


def row_bytes(index: Index, shard: int) -> memoryview:
    """The rows of a shard as bytes, to be unpacked by `ROW_FORMAT`.

    Unpacking a single row takes a tenth of the time that indexing a numpy array takes. Raises as `Index.rows`.
    """
    return index.rows(shard).view("u1").data


def chunk_span(rows: memoryview, row: int, chunk: int) -> tuple[int, int]:
    """(start, stop excluded) in bytes of the shard: the chunk of `chunk` samples that contains the row."""
    first = row - row % chunk
    last = min(first + chunk, len(rows) // ROW_FORMAT.size) - 1
    offset, size, _, _ = ROW_FORMAT.unpack_from(rows, last * ROW_FORMAT.size)
    return ROW_FORMAT.unpack_from(rows, first * ROW_FORMAT.size)[0], offset + size


def chunk_identity(index: Index, shard: int, start: int, stop: int) -> str:
    """Identity of bytes start .. stop of a shard in the cache. It includes the shard's sha256."""
    return f"{index.paths[shard]} {index.entries[shard].sha256} {start}-{stop}"


def small_cache_warning(index: Index, positions: int) -> str | None:
    """Warning if the cache cannot hold the samples of one window of the order; None if it can.

    positions: positions of one window in all lanes that this node reads.
    """
    needed = min(positions, index.samples) * index.mean_size
    if not any(map(is_remote, index.paths)) or needed <= index.storage.cache_bytes:
        return None
    have, want = index.storage.cache_bytes / 2**30, needed / 2**30
    return (
        f"the cache of remote shards ({index.storage.cache_dir}) holds {have:.3g} GiB, less than a window of the order "
        f"({want:.3g} GiB): chunks will be fetched more than once; raise data.cache_gb, or lower data.window"
    )


def ensure_cached(index: Index, shard: int, start: int, stop: int) -> tuple[Path | None, bytes | None]:
    """Fetch bytes start .. stop of a remote shard into this node's cache, unless they are there.

    Returns (path, bytes) as `Cache.get`. Raises OSError or ValueError as `Storage.fetch`.
    """
    fetch = index.storage.fetch
    name = chunk_identity(index, shard, start, stop)
    return index.cache.get(name, stop - start, lambda: fetch(index.paths[shard], start, stop))
