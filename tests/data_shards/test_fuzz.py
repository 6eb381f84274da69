"""Across shards and loading. Files damaged as chance does it: clear errors alone, and no wrong bytes."""

import logging
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from configs.schema import PretrainConfig
from data_shards.loading.modality_loader import ModalityLoader
from data_shards.shards import reader as reader_module
from data_shards.shards.bad_sample import BadSample
from data_shards.shards.index import load_index
from data_shards.shards.reader import Reader
from data_shards.shards.tar import Sample, parse_sample, scan
from tests.data_shards.shard_tools import make_shards, small_config
from tests.own import own

SECONDS = float(os.environ.get("FUZZ_SECONDS", "60"))
SPECIAL = [
    b"\0" * 512,
    b"\xff" * 64,
    b"ustar\x0000",
    b"ustar  \0",
    b"7" * 12,
    b"\x80" + b"\xff" * 11,
    b"\x93NUMPY",
    b"{",
]


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, removed, put in, repeated or cut off."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        place, length = int(rng.integers(0, len(changed) + 1)), int(rng.integers(1, 600))
        match int(rng.integers(0, 7)):
            case 0:
                changed[place : place + 1] = bytes([int(rng.integers(256))])
            case 1:
                changed[place : place + length] = rng.bytes(length)
            case 2:
                del changed[place : place + length]
            case 3:
                del changed[place:]
            case 4:
                changed[place:place] = changed[place : place + length]
            case 5:
                special = SPECIAL[int(rng.integers(len(SPECIAL)))]
                changed[place : place + len(special)] = special
            case 6:  # a header's field, where tars keep their numbers
                start = place // 512 * 512 + int(rng.choice([100, 124, 148, 156, 257, 345]))
                changed[start : start + 8] = rng.bytes(8)
        if not changed:
            return b""
    return bytes(changed)


def outcome(shards: Path, config: PretrainConfig, originals: dict[int, Sample], batch: bool) -> str:
    """Read everything, and load a batch, as a run does; what came of it."""
    try:
        index = load_index(config.data)
    except ValueError as error:
        assert "\n" not in str(error) and str(shards) in str(error), error
        return "refused"
    reader, bad = Reader(index), 0
    for sample in range(index.samples):
        try:
            read = reader.read(sample)
            if sample in originals and read.key == originals[sample].key:
                assert read == originals[sample], "other bytes than those that were written"
        except BadSample as error:
            bad += 1
            report = reader.report(sample, error)
            assert report.shard.startswith(str(shards)) and report.reason and report.sample
    reader.close()
    if batch:
        try:
            next(ModalityLoader(own(config), 0, 1).steps(0))
        except ValueError as error:
            assert "\n" not in str(error), error
            return "stopped"
    return "bad samples" if bad else "unharmed"


def test_mutated_files_for_some_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(reader_module, "_RETRIES_S", ())
    found = mutate(tmp_path, 8, seed=0)
    assert found >= {"tar bad samples", "idx.npy refused", "json refused", "scan refused"}


@pytest.mark.soak
@pytest.mark.slow
def test_mutated_files_for_a_minute(tmp_path, monkeypatch):
    monkeypatch.setattr(reader_module, "_RETRIES_S", ())
    found = mutate(tmp_path, SECONDS, seed=1)
    assert found >= {"tar bad samples", "idx.npy refused", "json refused", "scan refused"}


def mutate(tmp_path: Path, seconds: float, seed: int) -> set[str]:
    """Mutate a file of a data set at a time and read all of it, for so long; what came of it, by kind of file."""
    logging.disable(logging.WARNING)
    try:
        found = Counter[str]()
        rng, deadline = np.random.default_rng(seed), time.monotonic() + seconds
        sets: dict[str, tuple[Path, PretrainConfig, dict[int, Sample]]] = {}
        for modality in ("vision", "speech", "text"):
            folder = tmp_path / modality
            pattern = make_shards(folder, (6, 6), modality=modality)
            config = small_config(pattern, modality=modality)
            reader = Reader(load_index(pattern))
            sets[modality] = folder, config, {i: reader.read(i) for i in range(12)}
        while time.monotonic() < deadline:
            folder, config, originals = sets[str(rng.choice(list(sets)))]
            name = str(rng.choice(["train-000000.tar", "train-000000.idx.npy", "index.json"]))
            original = (folder / name).read_bytes()
            (folder / name).write_bytes(mutated(original, rng))
            try:
                what = outcome(folder, config, originals, batch=rng.random() < 0.3)
                found[f"{name.partition('.')[2]} {what}"] += 1
                if name.endswith(".tar"):
                    found[f"scan {scanned(folder / name)}"] += 1
            finally:
                (folder / name).write_bytes(original)
    finally:
        logging.disable(logging.NOTSET)
    assert sum(found.values()) > 20 * seconds
    return set(found)


def scanned(path: Path) -> str:
    """Index the tar as if others had built it, and parse what it is said to hold."""
    try:
        spans = scan(path)
    except ValueError as error:
        assert str(path) in str(error), error
        return "refused"
    data = path.read_bytes()
    for span in spans:
        key, members = parse_sample(data[span.offset : span.offset + span.size])
        assert key == span.key and members
    return "accepted"
