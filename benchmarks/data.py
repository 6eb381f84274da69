"""Cost of an image on its way into a batch: reading, decoding, augmenting, masking, and the loader as a whole.

    python -m benchmarks.data [FOLDER]

FOLDER holds JPEGs to measure with. Without one, images of 1/f noise stand in for photos: 500 x 375 pixels and about 100
kB, the average of ImageNet.
"""

from __future__ import annotations

import argparse
import io
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from configs.published import MultiMasks
from configs.schema import PretrainConfig
from configs.schema_modalities import VisionConfig
from configs.schema_training import BatchConfig, DataConfig
from data_shards.loading.modality_loader import ModalityLoader
from data_shards.making.writer import save_folder_index, write_shard
from data_shards.randomness import Stream, uniforms
from data_shards.shards.index import load_index
from data_shards.shards.index_file import FolderIndex
from data_shards.shards.reader import Reader
from data_shards.spans import several_masks
from data_shards.vision.decoding import decode
from data_shards.vision.masks import block_masks
from data_shards.vision.samples import CROP_DRAWS, JITTER_DRAWS, augment, centre_crop, color_jitter

BATCH = 32
SAMPLES = 512
REPEATS = 5
VISION = VisionConfig()
SEVERAL = MultiMasks(16, 0.8, 0.07, 3)  # Base of data2vec 2.0
PATCHES = np.full(BATCH, VISION.tokens)


def noise_photo(seed: int, height: int = 375, width: int = 500) -> bytes:
    """A JPEG of quality 87 whose amplitude spectrum falls like 1/f, as a photo's does."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    grey, *tint = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((4, height, width))) / frequency, (height, width))
    channels = [grey + 0.3 * color for color in tint]
    pixels = np.stack([128 + 48 * channel / channel.std() for channel in channels], axis=2)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=87)
    return buffer.getvalue()


def photos(folder: str) -> tuple[list[bytes], str]:
    """The images to measure with, and their description."""
    if not folder:
        return [noise_photo(seed) for seed in range(BATCH)], "synthetic 1/f noise"
    files = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise SystemExit(f"error: no .jpg in {folder}")
    return [path.read_bytes() for path in files], folder


def cpu_us(function: Callable[[], object], samples: int) -> float:
    """CPU microseconds per sample: the median of `REPEATS` calls, after one that does not count."""
    times = []
    function()
    for _ in range(REPEATS):
        started = time.process_time()
        function()
        times.append(time.process_time() - started)
    return statistics.median(times) / samples * 1e6


def write_shards(images: list[bytes], folder: Path) -> str:
    """Write `SAMPLES` samples into four shards, repeating the images; returns the shards' pattern."""
    samples = [(f"{i:06d}", {"jpg": images[i % len(images)]}) for i in range(SAMPLES)]
    entries = [write_shard(folder / f"train-{i:06d}.tar", samples[i::4]) for i in range(4)]
    save_folder_index(folder, FolderIndex(tuple(entries)))
    return f"{folder}/train-*.tar"


def per_image(images: list[bytes], shards: str) -> dict[str, float]:
    """CPU microseconds per image of each part of the way."""
    ids = np.arange(BATCH)
    draws = uniforms(0, 0, np.arange(len(images)), Stream.CROP, CROP_DRAWS + 1)
    jitter_draws, means = uniforms(0, 0, ids, Stream.JITTER, JITTER_DRAWS), np.full((BATCH, 3), 0.5)
    reader = Reader(load_index(shards))
    return {
        "read and check a sample": cpu_us(lambda: [reader.read(i) for i in range(SAMPLES)], SAMPLES),
        "decode": cpu_us(lambda: [decode(data) for data in images], len(images)),
        "decode, crop, resize, flip, mean colour": cpu_us(
            lambda: [augment(data, d, VISION) for data, d in zip(images, draws, strict=True)], len(images)
        ),
        "random numbers of the augmentation": cpu_us(lambda: uniforms(0, 0, ids, Stream.CROP, CROP_DRAWS + 1), BATCH),
        "colour jitter's affine map": cpu_us(lambda: color_jitter(means, jitter_draws, 0.4), BATCH),
        "evaluation: decode, resize, centre crop": cpu_us(lambda: [centre_crop(d, 224) for d in images], len(images)),
        "mask, 120 of 196": cpu_us(lambda: [block_masks(0, epoch, ids, VISION) for epoch in range(20)], 20 * BATCH),
        "16 masks of data2vec 2.0, 157 of 196": cpu_us(
            lambda: [several_masks(0, epoch, ids, PATCHES, SEVERAL, VISION.grid) for epoch in range(20)], 20 * BATCH
        ),
    }


def loader_rate(shards: str, workers: int, steps: int) -> tuple[float, float]:
    """Samples per second, and seconds until the first batch."""
    config = PretrainConfig(
        vision=VISION,
        batch=BatchConfig(global_=BATCH, micro=BATCH),
        data=DataConfig(shards=shards, workers=workers),
    )
    started = time.perf_counter()
    loader = ModalityLoader(config.for_modality("vision"), 0, 1)
    batches = loader.steps(0)
    next(batches)
    first = time.perf_counter() - started
    for _ in islice(batches, 1 + 2 * workers):  # what was prepared ahead
        pass
    started = time.perf_counter()
    for _ in islice(batches, steps):
        pass
    seconds = time.perf_counter() - started
    loader.close()
    return steps * BATCH / seconds, first


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", nargs="?", default="", help="folder of JPEGs; a stand-in is made without one")
    images, source = photos(parser.parse_args().folder)
    sizes = [Image.open(io.BytesIO(data)).size for data in images]
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"
    )
    print(
        f"{len(images)} JPEGs, {source}: {sizes[0][0]} x {sizes[0][1]}, "
        f"{statistics.mean(map(len, images)) / 1e3:.0f} kB on average; batch {BATCH}, one thread\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        shards = write_shards(images, Path(folder))
        times = per_image(images, shards)
        print("| per image | us of CPU |\n|---|---|")
        for name, us in times.items():
            print(f"| {name} | {us:.1f} |")
        image = times["decode, crop, resize, flip, mean colour"]
        for mask, limit in (("mask, 120 of 196", 3), ("16 masks of data2vec 2.0, 157 of 196", 5)):
            print(f"| {mask} / (decode and augment) | {times[mask] / image:.1%} (has to be below {limit} %) |")
        print()
        print("| loader processes | samples/s | first batch, s |\n|---|---|---|")
        for workers in (0, 1, 2):
            rate, first = loader_rate(shards, workers, 30)
            print(f"| {workers} | {rate:.0f} | {first:.2f} |")


if __name__ == "__main__":
    main()
