"""Losses of 20 steps of a tiny run of each kind, in fp32 on one rank, as JSON on the last line of standard output.

worker.py FOLDER      makes its shards and run directories there
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from configs.checks.run import check
from configs.compose import compose_pretrain
from configs.schema import PretrainConfig
from configs.schema_modalities import MODALITIES, Modality
from data_shards.making.writer import save_folder_index, write_shard
from data_shards.order.plain import random_words
from data_shards.shards.index_file import FolderIndex, TokenizerEntry
from data_shards.speech.audio import flac
from data_shards.text.tokens import tokens_npy
from pretrain.assemble import assemble
from pretrain.engine import distributed
from tests.golden.fingerprint import fingerprint
from tests.integration.made_up import KINDS, tiny

STEPS, SAMPLES, TYPES = 20, 48, 300


def numbers(sample: int, count: int, below: int) -> np.ndarray:
    """Return `count` whole numbers from 0 below `below`, int64: from raw Philox words, which no library redefines."""
    return (random_words(7, sample, (0, 0, 0, 0), count) % below).astype(np.int64)


def member(modality: Modality, sample: int) -> dict[str, bytes]:
    """Return a sample's member, encoded without loss: decoders of any version give the same numbers."""
    match modality:
        case "vision":
            coarse = numbers(sample, 6 * 5 * 3, 256).astype(np.uint8).reshape(6, 5, 3)
            buffer = io.BytesIO()
            Image.fromarray(coarse.repeat(4, axis=0).repeat(4, axis=1)).save(buffer, "PNG")
            return {"png": buffer.getvalue()}
        case "speech":
            count = 2000 + int(numbers(sample, 1, 6000)[0])
            walk = np.cumsum(numbers(sample, count, 601) - 300) % 4001 - 2000
            return {"flac": flac(walk.astype(np.int16))}
        case "text":
            length = 3 + int(numbers(sample, 1, 12)[0])
            ids = [0, *(4 + numbers(sample, length, TYPES - 5)).tolist(), 2]
            return {"npy": tokens_npy(ids, TYPES)}


def make_shards(folder: Path) -> None:
    """Write a shard of each modality to FOLDER/MODALITY."""
    for modality in MODALITIES:
        place = folder / modality
        place.mkdir()
        entry = write_shard(place / "train-000000.tar", [(f"{i:04d}", member(modality, i)) for i in range(SAMPLES)])
        tokenizer = TokenizerEntry("0" * 64, TYPES) if modality == "text" else None
        save_folder_index(place, FolderIndex((entry,), (), tokenizer))


def overrides(folder: Path, kind: str) -> list[str]:
    """Return the overrides of a run; dropout and layer drop are on."""
    given = [override for override in tiny(kind, 8, 4) if "shards=none" not in override]
    shards = [f"data.shards={folder}/{kind}"]
    if kind == "mixture":
        shards = [f"mixture.{modality}.shards={folder}/{modality}" for modality in MODALITIES]
    more = ["precision=fp32", "data.workers=0", "model.dropout=0.1", "model.layer_drop=0.2", "checkpoint.every=0"]
    return [*given, *shards, *more, f"train.steps={STEPS}", f"run.dir={folder}/run_{kind}"]


def losses(config: PretrainConfig, device: torch.device) -> list[float]:
    """Train and return the loss of each step."""
    check(config, 1)
    run = assemble(config, device)
    steps = run.loader.steps(0)
    found = [run.engine.step(next(steps)).loss for _ in range(STEPS)]
    run.loader.close()
    return found


def main(folder: Path) -> None:
    """Print the losses of all kinds and the fingerprint of this machine."""
    device = distributed.start()
    make_shards(folder)
    found = {kind: losses(compose_pretrain(overrides(folder, kind)), device) for kind in KINDS}
    print(json.dumps({"fingerprint": fingerprint(), "losses": found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
