"""One shard on disk: tar and sidecar, the same bytes for the same samples, under their names only when complete."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import simplejpeg
from PIL import Image

from configs.schema import Modality, frames
from data_shards.audio import AUDIO_EXTENSIONS, audio_samples
from data_shards.decoding import FORMATS
from data_shards.index_file import INDEX_NAME, FolderIndex, ShardEntry, index_json
from data_shards.sidecar import ROW, crc32, sidecar
from data_shards.tar import END, Data, sample_blocks
from data_shards.tokens import TOKEN_EXTENSION, token_count

Image.MAX_IMAGE_PIXELS = None  # only headers are read here

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp")
"""Members that are read as images."""


def _image_length(data: Data) -> int:
    """Pixels / 1000, rounded up, from the header."""
    if data[:2] == b"\xff\xd8":
        height, width, *_ = simplejpeg.decode_jpeg_header(data, strict=False)
    elif data[:4] == b"\x89PNG" and data[12:16] == b"IHDR":
        width, height = struct.unpack(">II", data[16:24])
    else:
        width, height = Image.open(io.BytesIO(data), formats=FORMATS).size
    return -(-width * height // 1000)


def _audio_length(data: Data) -> int:
    """Frames, from the header."""
    return frames(audio_samples(data))


def modality_of(members: Collection[str]) -> Modality | None:
    """What a sample is, as the extensions of its members tell; None where they do not."""
    kinds: tuple[tuple[Modality, tuple[str, ...]], ...] = (
        ("vision", IMAGE_EXTENSIONS), ("speech", AUDIO_EXTENSIONS), ("text", (TOKEN_EXTENSION,))
    )  # fmt: skip
    return next((modality for modality, known in kinds if any(extension in members for extension in known)), None)


def length_of(members: Mapping[str, Data]) -> int:
    """What a sample is bucketed by (see `index.ROW`), from the header of its member; 0 where unreadable."""
    kinds: tuple[tuple[tuple[str, ...], Callable[[Data], int]], ...] = (
        (IMAGE_EXTENSIONS, _image_length),
        (AUDIO_EXTENSIONS, _audio_length),
        ((TOKEN_EXTENSION,), token_count),
    )
    found = next(((read, members[e]) for extensions, read in kinds for e in extensions if e in members), None)
    if found is None:
        return 0
    read, data = found
    try:
        return min(read(data), 2**32 - 1)
    except Exception:  # codecs raise anything on damaged bytes; the reader deals with the sample when it comes
        return 0


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the name `path` once it is complete and on disk; nothing is left after an error."""
    partial = path.with_name(path.name + ".tmp")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Write a text file that is the old or the new one whenever the process is killed."""
    with replacing(path) as file:
        file.write(text.encode())


def _sync_folder(folder: Path) -> None:
    """Put renames in the folder on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_sidecar(shard: Path, rows: np.ndarray) -> str:
    """Write the shard's sidecar and return its sha256."""
    buffer = io.BytesIO()
    np.save(buffer, rows)
    with replacing(sidecar(shard)) as file:
        file.write(buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: a second writer of the same folder waits for the first, and then sees its work."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".index.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def save_folder_index(folder: Path, index: FolderIndex) -> None:
    """Write index.json, or remove it where no shard is left."""
    if not index.shards:
        (folder / INDEX_NAME).unlink(missing_ok=True)
        return
    with replacing(folder / INDEX_NAME) as file:
        file.write(index_json(index).encode())


def entry_of(shard: Path, rows: np.ndarray, filesize: int, sha256: str, idx_sha256: str) -> ShardEntry:
    """The shard's entry in index.json."""
    lengths = rows["length"]
    longest = int(lengths.max()) if len(rows) else 0
    return ShardEntry(shard.name, len(rows), filesize, sha256, idx_sha256, int(lengths.sum(dtype=np.int64)), longest)


def file_sha256(path: Path) -> str:
    """sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def _check_written(path: Path, sha256: str) -> None:
    """OSError where the disk does not give back what was written."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # from the disk, not from memory
    if file_sha256(path) != sha256:
        raise OSError(
            f"{path} does not hold what was just written to it: a fault of the disk or the memory; check them (dmesg, "
            f"smartctl, memtest), then build again or choose another output"
        )


def write_shard(path: Path, samples: Iterable[tuple[str, dict[str, bytes]]]) -> ShardEntry:
    """Write samples (key, members by extension) as a tar and its sidecar, read back before the tar takes its name.

    Raises OSError where the disk is full, or gives back something else.
    """
    rows, offset, digest = [], 0, hashlib.sha256()
    with replacing(path) as file:
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
    return entry_of(path, table, offset + len(END), digest.hexdigest(), idx_sha256)
