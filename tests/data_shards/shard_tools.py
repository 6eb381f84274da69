"""Small images, folders and shards for the tests of this folder."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from configs.schema import (
    BatchConfig,
    BuildConfig,
    DataConfig,
    PretrainConfig,
    TrainConfig,
    VisionConfig,
    VisionMaskConfig,
)
from data_shards.build import build
from data_shards.writer import save_folder_index, write_shard

SMALL = VisionConfig(image_size=28, patch_size=4, mask=VisionMaskConfig(patches=30, min_block=4, max_block=49))


def encoded(seed: int, kind: str = "JPEG", size: tuple[int, int] = (40, 30), mode: str = "RGB") -> bytes:
    """A smooth random image of (width, height), encoded."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def make_images(folder: Path, per_class: int = 8, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """folder/class/image_0.jpg ..."""
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            (folder / name / f"image_{i}.jpg").write_bytes(encoded(1000 * number + i))
    return folder


def make_shards(folder: Path, counts: tuple[int, ...], first_seed: int = 0) -> str:
    """Shards of labelled images with so many samples each; returns their pattern."""
    from data_shards.index import FolderIndex

    folder.mkdir(parents=True, exist_ok=True)
    entries, seed = [], first_seed
    for number, count in enumerate(counts):
        samples = [
            (f"{seed + i:06d}", {"jpg": encoded(seed + i), "cls": str((seed + i) % 3).encode()}) for i in range(count)
        ]
        entries.append(write_shard(folder / f"train-{number:06d}.tar", samples))
        seed += count
    save_folder_index(folder, FolderIndex(tuple(entries), ("a", "b", "c")))
    return f"{folder}/train-*.tar"


def build_folder(images: Path, output: Path, **keys) -> list[str]:
    """`shards build source=imagefolder` in this process (`workers=1`) unless said otherwise."""
    return build(BuildConfig(source="imagefolder", input=str(images), output=str(output), **{"workers": 1, **keys}))


def tree(folder: Path) -> dict[str, bytes]:
    """Bytes of all files of the folder that are not hidden."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != "."}


def small_config(shards: str, batch: int = 8, micro: int = 4, lanes: int | None = None, **data) -> PretrainConfig:
    """A configuration for 28-pixel images, loaded in this process unless said otherwise."""
    return PretrainConfig(
        vision=SMALL,
        batch=BatchConfig(global_=batch, micro=micro),
        data=DataConfig(**{"shards": shards, "lanes": lanes, "workers": 0, "window": 5, "chunk_bytes": 4096, **data}),
        train=TrainConfig(seed=3),
    )


def flip_byte(path: Path, offset: int) -> None:
    """Damage one byte of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m data_shards ...` to its end."""
    return subprocess.run([sys.executable, "-m", "data_shards", *arguments], capture_output=True, text=True)
