"""Labelled batches through loader, engine and checkpoints: the same order, bad samples and resume as masked ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from data_shards.making.writer import save_folder_index, write_shard
from data_shards.shards.index import load_index
from data_shards.shards.index_file import FolderIndex
from data_shards.shards.reader import Reader
from pretrain.checkpoints.reading import load_weights
from tests.integration.made_up import tiny
from tests.integration.processes import ROOT, launch
from tests.integration.real_shards import COUNT, build_shards

pytestmark = pytest.mark.slow

UNLABELLED = 5
STEPS = 9


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Images of two classes; one of them has lost its label."""
    reader = Reader(load_index(str(build_shards(tmp_path_factory.mktemp("vision"), "vision"))))
    samples = [(sample.key, dict(sample.members)) for sample in map(reader.read, range(COUNT))]
    del samples[UNLABELLED][1]["cls"]
    folder = tmp_path_factory.mktemp("labelled")
    entry = write_shard(folder / "train-000000.tar", [(k, {n: bytes(d) for n, d in m.items()}) for k, m in samples])
    save_folder_index(folder, FolderIndex((entry,), ("horizontal", "vertical")))
    return folder


def train(shards: Path, folder: Path, die_at: int = 0, ranks: int = 2) -> list[dict[int, dict]]:
    """Run the worker; returns, of each rank, its rows by step (the last one where a step was taken twice)."""
    more = [f"data.shards={shards}", f"run.dir={folder}/run", f"train.steps={STEPS}", "checkpoint.every=3"]
    loader = ["data.workers=1", "data.window=4", "data.max_bad_fraction=1", "data.lanes=4", "precision=fp32"]
    overrides = [*tiny("vision", 24, 4), *more, *loader]
    worker = str(ROOT / "tests/integration/labelled_worker.py")
    done = launch(ranks, worker, str(folder / "log"), str(die_at), *overrides)
    if not die_at:
        assert (folder / f"run/checkpoints/step_{STEPS:08d}/manifest.json").exists(), done.stderr[-4000:]
    logs = [(folder / f"log.{rank}").read_text().splitlines() for rank in range(ranks)]
    return [{row["step"]: row for row in map(json.loads, lines)} for lines in logs]


@pytest.fixture(scope="module")
def straight(shards, tmp_path_factory) -> tuple[Path, list[dict[int, dict]]]:
    folder = tmp_path_factory.mktemp("straight")
    return folder, train(shards, folder)


def test_labels_are_those_of_the_samples_and_an_unlabelled_one_is_replaced(shards, straight):
    _, ranks = straight
    reader = Reader(load_index(str(shards)))
    classes = [int(reader.read(sample).members.get("cls", b"-1")) for sample in range(COUNT)]
    for rows in ranks:
        for row in rows.values():
            assert row["labels"] == [classes[sample] for sample in row["samples"]]
            assert UNLABELLED not in row["samples"]
    counts = {rows[STEPS]["bad"] for rows in ranks}
    assert len(counts) == 1 and counts <= {2, 3}, "every rank counts all: once in each of two epochs and a quarter"


def test_killed_and_resumed_it_is_identical(shards, straight, tmp_path):
    folder, expected = straight
    train(shards, tmp_path, die_at=6)
    assert not (tmp_path / f"run/checkpoints/step_{STEPS:08d}").exists()
    resumed = train(shards, tmp_path)
    same = ("loss", "correct", "samples", "labels", "bad")
    assert [[[row[key] for key in same] for row in rows.values()] for rows in resumed] == [
        [[row[key] for key in same] for row in rows.values()] for rows in expected
    ]
    ours, theirs = load_weights(tmp_path / "run", "student")[0], load_weights(folder / "run", "student")[0]
    assert ours.keys() == {"linear.weight", "linear.bias"}
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_one_rank_sees_the_samples_of_two_in_the_same_steps(shards, straight, tmp_path):
    _, expected = straight
    (alone,) = train(shards, tmp_path, ranks=1)
    for step, row in alone.items():
        assert sorted(row["samples"]) == sorted(s for rows in expected for s in rows[step]["samples"])
        assert row["loss"] == pytest.approx(expected[0][step]["loss"], rel=1e-5)
