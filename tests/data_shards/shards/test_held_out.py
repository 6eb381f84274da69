"""Test samples that are among the reference or the training samples are found, and no others."""

import numpy as np
import pytest

from configs.schema_running import ProbeConfig
from configs.schema_training import DataConfig
from data_shards.making.writer import save_folder_index, write_shard
from data_shards.shards import held_out as held_out_module
from data_shards.shards.held_out import check_held_out
from data_shards.shards.index import load_index
from data_shards.shards.index_file import FolderIndex
from data_shards.shards.reader import Reader
from tests.data_shards.http_store import serve
from tests.data_shards.shard_tools import flip_byte, make_shards, member


def checked(train, reference, test, **probe):
    check_held_out(DataConfig(shards=train), ProbeConfig(train_shards=reference, test_shards=test, **probe))


def with_sample(folder, key, members):
    """Shards of other samples, and this one in the middle."""
    others = [(f"other{i}", {**member(900 + i, "vision"), "cls": b"0"}) for i in range(8)]
    folder.mkdir()
    entries = [
        write_shard(folder / "val-000000.tar", others[:3]),
        write_shard(folder / "val-000001.tar", [*others[3:5], (key, members), *others[5:]]),
    ]
    save_folder_index(folder, FolderIndex(tuple(entries)))
    return f"{folder}/val-*.tar"


def test_one_common_sample_is_found_among_training_and_reference_samples(tmp_path):
    train, reference = make_shards(tmp_path / "train", (20, 5)), make_shards(tmp_path / "reference", (9,), 100)
    for shards, key, row in ((train, "data.shards", 22), (reference, "probe.train_shards", 4)):
        sample = Reader(load_index(shards)).read(row)
        test = with_sample(tmp_path / f"test{row}", sample.key, sample.members)
        told = rf"a sample of {tmp_path}/test{row}/val-000001.tar is in {key} too \(.*: {sample.key}\)"
        with pytest.raises(ValueError, match=told):
            checked(train, reference, test)
        checked(train, reference, test, test_samples=2)  # samples 0 and 4 alone are taken


def test_other_samples_are_held_out(tmp_path, monkeypatch):
    """Of the same key, of the same bytes under another key, of the same size and checksum, or unreadable."""
    train, reference = make_shards(tmp_path / "train", (20,)), make_shards(tmp_path / "reference", (9,), 100)
    first, second = (Reader(load_index(train)).read(i) for i in (3, 4))
    tests = [
        with_sample(tmp_path / f"test{number}", key, members)
        for number, (key, members) in enumerate(((first.key, second.members), ("new", first.members)))
    ]
    for test in tests:
        checked(train, reference, test)
    monkeypatch.setattr(held_out_module, "_marks", lambda rows: np.zeros(len(rows), np.uint64))
    for test in tests:
        checked(train, reference, test)
    flip_byte(tmp_path / "train" / "train-000000.tar", 700)
    checked(train, reference, tests[0])


def test_many_remote_shards_are_compared_as_wholes(tmp_path, monkeypatch):
    train = tmp_path / "train"
    make_shards(train, (20, 20))
    reference = make_shards(tmp_path / "reference", (9,), 100)
    sample = Reader(load_index(str(train))).read(22)
    one = with_sample(tmp_path / "one", sample.key, sample.members)
    with serve(tmp_path) as store:
        data = DataConfig(shards=f"{store.url}/train", cache_dir=str(tmp_path / "cache"))
        with pytest.raises(ValueError, match=rf"in data.shards too \({store.url}/train/train-000001.tar: {sample.key}"):
            check_held_out(data, ProbeConfig(train_shards=reference, test_shards=one))
        monkeypatch.setattr(held_out_module, "_FEW_REMOTE", 1)
        check_held_out(data, ProbeConfig(train_shards=reference, test_shards=one))
        whole = ProbeConfig(train_shards=reference, test_shards=f"{train}/train-000001.tar")
        with pytest.raises(ValueError, match=rf"in data.shards too \({store.url}/train/train-000001.tar: "):
            check_held_out(data, whole)
