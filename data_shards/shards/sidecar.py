"""A shard's sidecar: a numpy array beside the tar, with one row per sample that says where its bytes are.

    train-000000.idx.npy             train-000000.tar

    row  offset  size  crc  length    byte
      0       0  2048   ..      ..       0  sample 0         2048 bytes
      1    2048  3072   ..      ..    2048  sample 1         3072 bytes, two members:
                                              2048  header of b.cls       512
                                              2560  its data and padding  512
                                              3072  header of b.jpg       512
                                              3584  its data and padding 1536
                                      5120  end of the tar   1024 zeros

Row 1 says: the bytes 2048 .. 5120 (excluded) of the tar are sample 1, and their checksum is `crc`.
"""

from __future__ import annotations

import io
import mmap
import os
from functools import lru_cache
from pathlib import Path

import numpy as np

from data_shards.shards.index_file import REMEDY
from data_shards.shards.storage import Unreachable

try:
    from isal.isal_zlib import crc32  # zlib's checksum, ten times as fast
except ImportError:  # no wheel for this machine
    from zlib import crc32

__all__ = ["ROW", "crc32", "is_sidecar", "load_rows", "read_rows", "sidecar", "sidecar_name", "sidecar_size"]

ROW = np.dtype([("offset", "<u8"), ("size", "<u4"), ("crc", "<u4"), ("length", "<u4")])
"""One row per sample.

offset: first byte of the sample's first header; size: bytes from there to the end of its last padding; crc: zlib.crc32
of these bytes; length: quantity by which samples are sorted into bins (images: pixels / 1000, rounded up; recordings:
frames of the feature encoder; text: tokens), 0 if unreadable."""


@lru_cache(maxsize=4096)
def _header(nsamples: int) -> bytes:
    """Header of the .npy file of a sidecar with `nsamples` rows."""
    buffer = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(ROW)
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": (nsamples,)})
    return buffer.getvalue()


_SIDECAR_START = len(_header(0))  # bytes of the header, the same for any number of rows


def sidecar(shard: Path) -> Path:
    """Path of the sidecar beside a shard."""
    return shard.with_name(sidecar_name(shard.name))


def sidecar_name(shard: str) -> str:
    """File name of a shard's sidecar, from the shard's file name."""
    return shard.removesuffix(".tar") + ".idx.npy"


def is_sidecar(path: Path) -> bool:
    """True for a file of the form of a sidecar, whatever its rows say."""
    try:
        return load_rows(path, path.name) is not None
    except (ValueError, OSError):
        return False


def sidecar_size(nsamples: int) -> int:
    """Size in bytes of a sidecar with `nsamples` rows."""
    return _SIDECAR_START + nsamples * ROW.itemsize


def read_rows(shard: Path) -> np.ndarray:
    """Rows of a shard, memory-mapped, structured [nsamples] of dtype ROW. Raises as `load_rows`."""
    return load_rows(sidecar(shard), str(shard))


def _map_rows(path: Path) -> np.ndarray | None:
    """Map a sidecar's rows in a tenth of the time that numpy takes; None if its form is not the one that we write."""
    with open(path, "rb", buffering=0) as file:
        count, rest = divmod(os.fstat(file.fileno()).st_size - _SIDECAR_START, ROW.itemsize)
        if count <= 0 or rest or file.read(_SIDECAR_START) != _header(count):
            return None
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), ROW, offset=_SIDECAR_START)


def load_rows(path: Path, shard: str) -> np.ndarray:
    """Rows of the sidecar `path`, memory-mapped, structured [nsamples] of dtype ROW.

    path: the sidecar, which may lie elsewhere than its shard; shard: the shard's name for errors. Raises ValueError
    if there is no sidecar, or if it is damaged; Unreachable if it cannot be read.
    """
    try:
        rows = _map_rows(path)
        if rows is None:
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{shard} has no sidecar {path.name}; make it: {REMEDY}{shard}") from None
    except OSError as error:
        raise Unreachable(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # numpy parses the header as Python, which raises any exception
        raise ValueError(f"{path} is damaged ({_first_line(error)}); make it anew: {REMEDY}{shard}") from error
    if rows.dtype != ROW or rows.ndim != 1:
        raise ValueError(f"{path} is not a sidecar ({rows.dtype}); make it anew: {REMEDY}{shard}")
    return rows


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]
