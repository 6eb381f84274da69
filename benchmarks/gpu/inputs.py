"""Made-up shards of every modality: JPEGs of 1/f noise, clips with LibriSpeech's lengths, texts of random subwords."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.data import noise_photo
from configs.schema_modalities import MODALITIES, Modality
from data_shards.making.writer import save_folder_index, write_shard
from data_shards.shards.index_file import FolderIndex
from data_shards.speech.audio import flac
from data_shards.text.tokens import tokens_npy

TYPES = 50_265  # of the published text recipe
RATE = 16_000  # Hz


def _photo(seed: int) -> tuple[str, dict[str, bytes]]:
    return f"{seed:06d}", {"jpg": noise_photo(seed)}


def _clip(seed: int) -> tuple[str, dict[str, bytes]]:
    """A noise with the lengths of LibriSpeech's utterances: a third of 1.5 to 13 s, the rest near 14.7 s."""
    rng = np.random.default_rng(seed)
    seconds = rng.uniform(1.5, 13) if rng.random() < 0.36 else min(rng.normal(14.7, 0.6), 15.6)
    noise = np.convolve(rng.standard_normal(int(RATE * seconds)), np.ones(8) / 8, "same")
    return f"{seed:06d}", {"flac": flac((3000 * noise).clip(-32768, 32767).astype(np.int16))}


def _text(seed: int) -> tuple[str, dict[str, bytes]]:
    """Mostly texts that fill the 512 positions, as documents cut into pieces do."""
    rng = np.random.default_rng(seed)
    length = 510 if rng.random() < 0.8 else int(rng.integers(16, 510))
    return f"{seed:06d}", {"npy": tokens_npy([0, *rng.integers(4, TYPES - 1, length).tolist(), 2], TYPES)}


_MAKERS: dict[Modality, Callable[[int], tuple[str, dict[str, bytes]]]] = {
    "vision": _photo,
    "speech": _clip,
    "text": _text,
}


def make_shards(folder: Path, samples: dict[Modality, int]) -> None:
    """Write a shard of each modality to FOLDER/MODALITY, on all cores. A folder that is there stays."""
    with multiprocessing.get_context("fork").Pool() as pool:
        for modality in MODALITIES:
            place = folder / modality
            if place.exists():
                continue
            place.mkdir(parents=True)
            made = pool.map(_MAKERS[modality], range(samples[modality]), chunksize=8)
            entry = write_shard(place / "noise-000000.tar", made)
            save_folder_index(place, FolderIndex((entry,), (), None))
