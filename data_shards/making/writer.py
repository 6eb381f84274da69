"""Writing of tars, sidecars and index.json.

Equal samples give equal bytes. A file takes its name only when it is complete.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from data_shards.files import atomic_write, file_sha256
from data_shards.kinds import length_of
from data_shards.shards.index_file import INDEX_NAME, FolderIndex, ShardEntry, index_json
from data_shards.shards.sidecar import ROW, crc32, sidecar
from data_shards.shards.tar import END, sample_blocks

Image.MAX_IMAGE_PIXELS = None  # no limit is needed: only headers of images are read here


def save_sidecar(shard: Path, rows: np.ndarray) -> str:
    """Write the sidecar of a shard; returns its sha256."""
    buffer = io.BytesIO()
    np.save(buffer, rows)
    with atomic_write(sidecar(shard)) as file:
        file.write(buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def save_folder_index(folder: Path, index: FolderIndex) -> None:
    """Write index.json, or remove it if no shard is left."""
    if not index.shards:
        (folder / INDEX_NAME).unlink(missing_ok=True)
        return
    with atomic_write(folder / INDEX_NAME) as file:
        file.write(index_json(index).encode())


def shard_entry(shard: Path, rows: np.ndarray, filesize: int, sha256: str, idx_sha256: str) -> ShardEntry:
    """Entry of a shard in index.json. rows: its sidecar, structured [nsamples] of dtype ROW."""
    lengths = rows["length"]
    longest = int(lengths.max()) if len(rows) else 0
    return ShardEntry(shard.name, len(rows), filesize, sha256, idx_sha256, int(lengths.sum(dtype=np.int64)), longest)


def _check_written(path: Path, sha256: str) -> None:
    """Read a file back from the disk. Raises OSError if its content differs from what was written."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # from the disk, not from memory
    if file_sha256(path) != sha256:
        raise OSError(
            f"{path} does not hold what was just written to it: a fault of the disk or the memory; check them (dmesg, "
            f"smartctl, memtest), then build again or choose another output"
        )


def write_shard(path: Path, samples: Iterable[tuple[str, dict[str, bytes]]]) -> ShardEntry:
    """Write samples (key, members by extension) as a tar with its sidecar; returns the entry for index.json.

    The tar is read back before it takes its name. Raises OSError if the disk is full or gives back other bytes.
    """
    rows, offset, digest = [], 0, hashlib.sha256()
    with atomic_write(path) as file:
        for key, members in samples:
            blocks = sample_blocks(key, members)
            rows.append((offset, len(blocks), crc32(blocks), length_of(members)))
            file.write(blocks)
            digest.update(blocks)
            offset += len(blocks)
        file.write(END)
        digest.update(END)
        file.flush()
        os.fsync(file.fileno())
        _check_written(Path(file.name), digest.hexdigest())
        table = np.array(rows, ROW)
        idx_sha256 = save_sidecar(path, table)
    return shard_entry(path, table, offset + len(END), digest.hexdigest(), idx_sha256)
