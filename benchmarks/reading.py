"""Reading and the whole pipeline beside webdataset's: ratios of both costs on the same tars, in one run.

    python -m benchmarks.reading [FOLDER]

FOLDER holds JPEGs to measure with. Without one, 1/f noise of 500 x 375 pixels stands in for photos (see
`benchmarks.data`). Small JPEGs (28 pixels, 1 kB) and token sequences show the cost of reading when decoding costs
nothing. Variants take turns, and medians are compared.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import webdataset
from PIL import Image, ImageEnhance
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.data import noise_photo, photos
from configs.schema import PretrainConfig
from configs.schema_modalities import VisionConfig
from configs.schema_training import BatchConfig, DataConfig
from data_shards.batch import BOS, EOS
from data_shards.loading.modality_loader import ModalityLoader
from data_shards.making.writer import save_folder_index, write_shard
from data_shards.randomness import Stream, uniforms
from data_shards.shards.index import load_index
from data_shards.shards.index_file import FolderIndex
from data_shards.shards.reader import Reader
from data_shards.text.tokens import tokens_npy
from data_shards.vision.samples import CROP_DRAWS, augment, crop_box
from tests.data_shards.http_store import serve

BATCH, WORKERS, REPEATS, SHARDS = 64, 2, 5, 4
SECONDS = 6.0
VISION = VisionConfig()


def write(folder: Path, members: list[dict[str, bytes]], samples: int) -> list[Path]:
    """Write shards of `samples` samples, repeating the members."""
    folder.mkdir()
    keyed = [(f"{i:06d}", members[i % len(members)]) for i in range(samples)]
    entries = [write_shard(folder / f"train-{i:06d}.tar", keyed[i::SHARDS]) for i in range(SHARDS)]
    save_folder_index(folder, FolderIndex(tuple(entries)))
    return sorted(folder.glob("*.tar"))


def in_turns(*functions: Callable[[], float]) -> list[float]:
    """Median of each function's figures. The functions are called in turns, after one call that does not count."""
    figures = [[function() for function in functions] for _ in range(REPEATS + 1)][1:]
    return [statistics.median(column) for column in zip(*figures, strict=True)]


def cpu_us(function: Callable[[], int]) -> float:
    """CPU microseconds per sample; the function returns their number."""
    started = time.process_time()
    samples = function()
    return (time.process_time() - started) / samples * 1e6


def plain_webdataset(tars: list[Path]) -> webdataset.WebDataset:
    """Undecoded samples, grouped by webdataset."""
    return webdataset.WebDataset([str(path) for path in tars], shardshuffle=False, empty_check=False)


def raw(name: str, tars: list[Path]) -> None:
    """Print the cost of undecoded samples in one process, with warm caches."""
    index = load_index(str(tars[0].parent))
    reader = Reader(index)
    shuffled = np.random.default_rng(0).permutation(index.samples).tolist()

    def ours(order: Sequence[int]) -> int:
        for sample in order:
            reader.read(sample)
        return len(order)

    def theirs() -> int:
        return sum(1 for _ in plain_webdataset(tars))

    in_order = range(index.samples)
    own, random, wds = in_turns(
        lambda: cpu_us(lambda: ours(in_order)), lambda: cpu_us(lambda: ours(shuffled)), lambda: cpu_us(theirs)
    )
    size = index.mean_size / 1e3
    print(f"| {name}, {size:.1f} kB | {own:.1f} | {random:.1f} | {wds:.1f} | {wds / own:.1f} x |", flush=True)


def pillow_augment(data: bytes, draws: np.ndarray) -> torch.Tensor:
    """The published augmentation, operation by operation, like torchvision's on PIL images."""
    image: Image.Image = Image.open(io.BytesIO(data)).convert("RGB")
    factors = 0.6 + 0.8 * draws[-3:]
    for enhancer, factor in zip(
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), factors, strict=True
    ):
        image = enhancer(image).enhance(factor)
    if draws[CROP_DRAWS] < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    box = crop_box(image.height, image.width, draws[:CROP_DRAWS], VISION)
    corners = (box.left, box.top, box.left + box.width, box.top + box.height)
    image = image.resize((224, 224), Image.Resampling.BICUBIC, corners)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


class PillowPipeline(IterableDataset):
    """Endless batches of webdataset's samples, decoded and augmented with Pillow, stacked in the worker."""

    def __init__(self, tars: list[Path]) -> None:
        self.tars = tars

    def __iter__(self) -> Iterator[torch.Tensor]:
        number, stack = 0, []
        while True:
            for sample in plain_webdataset(self.tars):
                draws = uniforms(0, 0, np.array([number]), Stream.CROP, CROP_DRAWS + 4)[0]
                stack.append(pillow_augment(sample["jpg"], draws))
                number += 1
                if len(stack) == BATCH:
                    yield torch.stack(stack)
                    stack = []


def rate(batches: Iterator) -> float:
    """Samples per second during `SECONDS` seconds, after the batches that were prepared ahead."""
    for _ in islice(batches, 3 * WORKERS):
        pass
    started, samples = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS:
        next(batches)
        samples += BATCH
    return samples / (time.perf_counter() - started)


def our_pipeline(tars: list[Path]) -> float:
    """Decode, augment, mask, stack: the loader of a run."""
    config = PretrainConfig(
        vision=VISION,
        batch=BatchConfig(global_=BATCH, micro=BATCH),
        data=DataConfig(shards=str(tars[0].parent), workers=WORKERS),
    )
    loader = ModalityLoader(config.for_modality("vision"), 0, 1)
    figure = rate(loader.steps(0))
    loader.close()
    return figure


def pillow_pipeline(tars: list[Path]) -> float:
    """webdataset and Pillow, without masks."""
    loader = DataLoader(
        PillowPipeline(tars), batch_size=None, num_workers=WORKERS, prefetch_factor=2, multiprocessing_context="fork"
    )
    return rate(iter(loader))


def _augment_for(images: list[bytes], seconds: float, results: multiprocessing.Queue) -> None:
    torch.set_num_threads(1)
    draws = uniforms(0, 0, np.arange(len(images)), Stream.CROP, CROP_DRAWS + 1)
    for data, draw in zip(images, draws, strict=True):
        augment(data, draw, VISION)
    started, samples = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        augment(images[samples % len(images)], draws[samples % len(images)], VISION)
        samples += 1
    results.put(samples / (time.perf_counter() - started))


def decode_and_augment_alone(images: list[bytes]) -> float:
    """Samples per second of an equal number of processes that only decode and augment images in memory."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_augment_for, args=(images, SECONDS, results)) for _ in range(WORKERS)]
    for process in processes:
        process.start()
    total = sum(results.get() for _ in processes)
    for process in processes:
        process.join()
    return total


def pipeline(images: list[bytes], tars: list[Path]) -> None:
    """Print samples per second of both pipelines, and of decoding and augmenting alone."""
    ours, theirs, alone = in_turns(
        lambda: our_pipeline(tars), lambda: pillow_pipeline(tars), lambda: decode_and_augment_alone(images)
    )
    print(f"\n| whole pipeline, {WORKERS} workers on {os.cpu_count()} cores | samples/s |\n|---|---|")
    print(f"| ours: read, decode, augment, mask, stack, hand over | {ours:.0f} |")
    print(f"| webdataset and Pillow, without masks | {theirs:.0f} ({ours / theirs:.2f} x) |")
    print(f"| decode and augment alone, as many processes | {alone:.0f} ({ours / alone:.1%}) |", flush=True)


def remote(folder: Path, cache: Path) -> None:
    """Print the bytes that an epoch reads from a store."""
    size = sum(path.stat().st_size for path in folder.glob("*.tar"))
    with serve(folder) as store:
        config = PretrainConfig(
            vision=VISION,
            batch=BatchConfig(global_=BATCH, micro=BATCH),
            data=DataConfig(shards=store.url, workers=WORKERS, cache_dir=str(cache), chunk_bytes=2**20, window=64),
        )
        loader = ModalityLoader(config.for_modality("vision"), 0, 1)
        for _ in islice(loader.steps(0), loader.steps_per_epoch):
            pass
        loader.close()
        tars, others = store.bytes_of(".tar"), store.bytes_of(".npy") + store.bytes_of(".json")
    print(
        f"\nan epoch from a store: {tars / size:.2%} of the shards' {size / 1e6:.0f} MB, "
        f"and {others / 1e3:.0f} kB of index"
    )


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", nargs="?", default="", help="folder of JPEGs; a stand-in is made without one")
    images, source = photos(parser.parse_args().folder)
    packages = ", ".join(f"{name} {version(name)}" for name in ("webdataset", "torch", "Pillow", "simplejpeg", "numpy"))
    print(f"Python {platform.python_version()}, {packages}; {len(images)} JPEGs, {source}; batch {BATCH}\n")
    rng = np.random.default_rng(0)
    small = [noise_photo(seed, 28, 28) for seed in range(64)]
    medium = [noise_photo(seed, 200, 266) for seed in range(64)]
    texts = [tokens_npy([BOS, *rng.integers(4, 50_000, int(rng.integers(20, 500))), EOS], 50_265) for _ in range(64)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        labelled = [{"jpg": data, "cls": str(i % 10).encode()} for i, data in enumerate(images)]
        photos_tars = write(folder / "photos", labelled, 2048)
        medium_tars = write(folder / "medium", [{"jpg": data, "cls": b"7"} for data in medium], 4096)
        small_tars = write(folder / "small", [{"jpg": data, "cls": b"7"} for data in small], 8192)
        text_tars = write(folder / "text", [{"npy": data} for data in texts], 8192)
        labelled_tars = write(folder / "labelled", [{"npy": data, "cls": b"7"} for data in texts], 8192)
        print("| undecoded samples, us of CPU | ours, in order | shuffled | webdataset, in order | |")
        print("|---|---|---|---|---|")
        raw("JPEG and label", photos_tars)
        raw("JPEG and label", medium_tars)
        raw("JPEG and label", small_tars)
        raw("text and label", labelled_tars)
        raw("text", text_tars)
        pipeline(images, photos_tars)
        remote(folder / "photos", folder / "cache")


if __name__ == "__main__":
    main()
