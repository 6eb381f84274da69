"""Small images, clips, texts, folders and shards for the tests of this folder."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from configs.schema import PretrainConfig
from configs.schema_commands import BuildConfig
from configs.schema_modalities import (
    Modality,
    SpeechConfig,
    TextConfig,
    VisionConfig,
    VisionMaskConfig,
)
from configs.schema_running import TrainConfig
from configs.schema_training import BatchConfig, DataConfig, MixtureConfig, MixturePart
from data_shards.batch import BOS, EOS, UNK, SampleBatch
from data_shards.loading.loader import Loader
from data_shards.making.build import build
from data_shards.making.writer import save_folder_index, save_sidecar, write_shard
from data_shards.shards.index import load_index
from data_shards.shards.index_file import FolderIndex, read_folder_index
from data_shards.shards.reader import Reader
from data_shards.shards.sidecar import read_rows
from data_shards.speech.audio import flac
from data_shards.text.tokenizer import Tokenizer, train_tokenizer
from data_shards.text.tokens import tokens_npy

SMALL = VisionConfig(image_size=28, patch_size=4, mask=VisionMaskConfig(patches=30, min_block=4, max_block=49))


SPEECH = SpeechConfig(max_seconds=0.5)  # 24 frames


TEXT = TextConfig(vocab_size=300, max_tokens=12)


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


def clip(seed: int, samples: int | None = None) -> bytes:
    """A quiet noise about an offset, encoded; 2 to 50 frames where `samples` is not given."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(720, 16400)) if samples is None else samples
    return flac((200 + 50 * (1 + seed % 5) * rng.standard_normal(count)).astype(np.int16))


def text_ids(seed: int, tokens: int | None = None) -> list[int]:
    """Ids of <s>, ordinary tokens, </s>; 3 to 20 of them where `tokens` is not given."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(3, 21)) if tokens is None else tokens
    return [BOS, *rng.integers(UNK + 1, TEXT.vocab_size - 1, count - 2).tolist(), EOS]


def member(seed: int, modality: Modality) -> dict[str, bytes]:
    """One sample's content of that modality."""
    match modality:
        case "vision":
            return {"jpg": encoded(seed)}
        case "speech":
            return {"flac": clip(seed)}
        case "text":
            return {"npy": tokens_npy(text_ids(seed), TEXT.vocab_size)}


@cache
def small_tokenizer() -> Tokenizer:
    """A tokenizer of `TEXT.vocab_size` types."""
    words = [f"{first}{second}" for first in "abcdefg" for second in "hijklmn"]
    return train_tokenizer([" ".join(words)], TEXT.vocab_size)


def make_shards(folder: Path, counts: tuple[int, ...], first_seed: int = 0, modality: Modality = "vision") -> str:
    """Shards of labelled samples with so many each; returns their pattern."""
    folder.mkdir(parents=True, exist_ok=True)
    entries, seed = [], first_seed
    for number, count in enumerate(counts):
        samples = [
            (f"{seed + i:06d}", {**member(seed + i, modality), "cls": str((seed + i) % 3).encode()})
            for i in range(count)
        ]
        entries.append(write_shard(folder / f"train-{number:06d}.tar", samples))
        seed += count
    tokenizer = small_tokenizer() if modality == "text" else None
    if tokenizer:
        tokenizer.save(folder / "tokenizer")
    save_folder_index(folder, FolderIndex(tuple(entries), ("a", "b", "c"), tokenizer.entry if tokenizer else None))
    return f"{folder}/train-*.tar"


def build_folder(images: Path, output: Path, **keys) -> list[str]:
    """`shards build source=imagefolder` in this process (`workers=1`) unless said otherwise."""
    return build(BuildConfig(source="imagefolder", input=str(images), output=str(output), **{"workers": 1, **keys}))


def tree(folder: Path) -> dict[str, bytes]:
    """Bytes of all files of the folder that are not hidden."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != "."}


def small_config(
    shards: str,
    batch: int = 8,
    micro: int = 4,
    lanes: int | None = None,
    modality: Modality = "vision",
    micro_tokens: int | None = None,
    **data,
) -> PretrainConfig:
    """A configuration for 28-pixel images, or short clips or texts, loaded in this process unless said otherwise."""
    return PretrainConfig(
        modality=modality,
        vision=SMALL,
        speech=SPEECH,
        text=TEXT,
        batch=BatchConfig(global_=batch, micro=micro, micro_tokens=micro_tokens),
        data=DataConfig(**{"shards": shards, "lanes": lanes, "workers": 0, "window": 5, "chunk_bytes": 4096, **data}),
        train=TrainConfig(seed=3),
    )


def mixture_config(shards: dict[Modality, str], **data) -> PretrainConfig:
    """A mixture of the three, loaded in this process: of six steps three are images, two speech, one text."""
    weights = {"vision": 3, "speech": 2, "text": 1}
    parts = {name: MixturePart(weight=weights[name], shards=shards[name]) for name in weights}
    return replace(small_config("", **data), modality=tuple(weights), mixture=MixtureConfig(**parts))


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


def members(output, name):
    index = load_index(f"{output}/{name}-*.tar")
    reader = Reader(index)
    return [reader.read(i) for i in range(index.samples)]


def runs(mask):
    """Lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return edges[1::2] - edges[::2]


def damage(folder: Path, samples: Sequence[int] = (5,)) -> None:
    """Flip a byte of these samples of the first shard."""
    shard = folder / "train-000000.tar"
    for sample in samples:
        flip_byte(shard, int(read_rows(shard)["offset"][sample]) + 600)


def counted_steps(loaders: Sequence[Loader], count: int, first: int = 0) -> Iterator[list[list[SampleBatch]]]:
    """Steps of the loaders of all ranks, each step's micro-batches by rank; bad samples are counted as in a run."""
    for ranks in islice(zip(*(loader.steps(first) for loader in loaders), strict=True), count):
        read, outcomes = sum(len(batch) for step in ranks for batch in step), [loader.outcome for loader in loaders]
        for loader in loaders:
            loader.bad.add(read, outcomes if any(outcome.replaced.any() for outcome in outcomes) else [])
        yield [*ranks]


def replace_sidecar(shard: Path, rows: np.ndarray) -> None:
    """Write another sidecar of a shard, and its checksum into index.json."""
    digest, index = save_sidecar(shard, rows), read_folder_index(shard.parent)
    entries = [replace(entry, idx_sha256=digest) if entry.url == shard.name else entry for entry in index.shards]
    save_folder_index(shard.parent, replace(index, shards=tuple(entries)))
