"""A shard's sidecar: where its samples are. A numpy array beside the tar, a row per sample."""

from __future__ import annotations

import io
import mmap
import os
from functools import lru_cache
from pathlib import Path

import numpy as np

from data_shards.shards.index_file import REMEDY

try:
    from isal.isal_zlib import crc32  # zlib's checksum, ten times as fast
except ImportError:  # no wheel for this machine
    from zlib import crc32

__all__ = ["ROW", "crc32", "load_rows", "read_rows", "sidecar", "sidecar_name", "sidecar_size"]

ROW = np.dtype([("offset", "<u8"), ("size", "<u4"), ("crc", "<u4"), ("length", "<u4")])
"""offset: first byte of the sample's first header; size: bytes to the end of its last padding; crc: zlib.crc32 of those
bytes; length: what samples are bucketed by (images: pixels / 1000, rounded up; recordings: the feature encoder's
frames; text: tokens), 0 where unreadable."""


@lru_cache(maxsize=4096)
def _header(nsamples: int) -> bytes:
    """What a sidecar of so many rows begins with."""
    buffer = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(ROW)
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": (nsamples,)})
    return buffer.getvalue()


_SIDECAR_START = len(_header(0))  # whatever the number of rows


def sidecar(shard: Path) -> Path:
    """Path of a shard's sidecar."""
    return shard.with_name(sidecar_name(shard.name))


def sidecar_name(shard: str) -> str:
    """Name of a shard's sidecar."""
    return shard.removesuffix(".tar") + ".idx.npy"


def sidecar_size(nsamples: int) -> int:
    """Bytes of a sidecar."""
    return _SIDECAR_START + nsamples * ROW.itemsize


def read_rows(shard: Path) -> np.ndarray:
    """The shard's rows, mapped, structured [nsamples] of dtype ROW. ValueError where there is no sound sidecar."""
    return load_rows(sidecar(shard), str(shard))


def _map_rows(path: Path) -> np.ndarray | None:
    """A sidecar's rows, mapped in a tenth of the time that numpy takes; None where it is not as we write them."""
    with open(path, "rb", buffering=0) as file:
        count, rest = divmod(os.fstat(file.fileno()).st_size - _SIDECAR_START, ROW.itemsize)
        if count <= 0 or rest or file.read(_SIDECAR_START) != _header(count):
            return None
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), ROW, offset=_SIDECAR_START)


def load_rows(path: Path, shard: str) -> np.ndarray:
    """As `read_rows`, of the sidecar `path`, which need not lie beside its shard."""
    try:
        rows = _map_rows(path)
        if rows is None:
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{shard} has no sidecar {path.name}; make it: {REMEDY}{shard}") from None
    except Exception as error:  # numpy parses the header as Python, which raises anything
        raise ValueError(f"{path} is damaged ({_first_line(error)}); make it anew: {REMEDY}{shard}") from error
    if rows.dtype != ROW or rows.ndim != 1:
        raise ValueError(f"{path} is not a sidecar ({rows.dtype}); make it anew: {REMEDY}{shard}")
    return rows


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]
