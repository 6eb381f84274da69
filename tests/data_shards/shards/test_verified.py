"""Sidecars at the start of a run: what differs from index.json is named, and what was compared is not read again."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from configs.schema_training import DataConfig
from data_shards.shards.index import load_index
from data_shards.shards.sidecar import sidecar
from data_shards.shards.storage import Unreachable
from tests.data_shards.shard_tools import flip_byte, make_shards


@pytest.fixture
def data(tmp_path):
    """The data keys of three shards that were written a while ago, with a cache of its own."""
    pattern = make_shards(tmp_path / "shards", (4, 0, 3))
    for path in (tmp_path / "shards").glob("*.npy"):
        os.utime(path, (0, 0))
    time.sleep(0.02)
    return DataConfig(shards=pattern, cache_dir=str(tmp_path / "cache"))


@pytest.fixture
def read(monkeypatch):
    """Names of the files that are read whole."""
    names = []
    monkeypatch.setattr(
        Path, "read_bytes", lambda self, really=Path.read_bytes: names.append(self.name) or really(self)
    )
    return names


@pytest.fixture
def settled(monkeypatch):
    """Files are old enough at once."""
    monkeypatch.setattr("data_shards.shards.verified._SETTLED_S", 0)


def sidecars(names):
    return [name for name in names if name.endswith(".npy")]


@pytest.mark.parametrize("place", range(128, 208, 8))
def test_a_flipped_byte_of_any_field_ends_the_start(tmp_path, data, place):
    flip_byte(tmp_path / "shards/train-000000.idx.npy", place)
    with pytest.raises(
        ValueError, match=r"train-000000\.idx\.npy is not the sidecar that index\.json promises.*make both anew"
    ):
        load_index(data)


def test_it_is_read_once_and_noticed_when_it_changes(tmp_path, data, read, settled):
    load_index(data)
    assert len(sidecars(read)) == 3
    read.clear()
    load_index(data)
    assert sidecars(read) == [], "remembered by size, times and inode"
    path = sidecar(tmp_path / "shards/train-000002.tar")
    flip_byte(path, 150)
    os.utime(path, (0, 0))  # as some copying programs set it
    for _ in range(2):
        with pytest.raises(ValueError, match=r"train-000002\.idx\.npy is not the sidecar"):
            load_index(data)
    flip_byte(path, 150)
    read.clear()
    load_index(data)
    assert sidecars(read) == ["train-000002.idx.npy"], "it alone is read again"


def test_what_was_written_just_now_is_not_remembered(data, read):
    load_index(data)
    load_index(data)
    assert len(sidecars(read)) == 6, "it may change again within one tick of the clock"


def test_without_a_place_for_the_cache_it_is_compared_each_time(tmp_path, data, read, settled):
    (tmp_path / "cache").touch()
    load_index(data)
    load_index(data)
    assert len(sidecars(read)) == 6


def test_folders_that_are_gone_are_forgotten(tmp_path, data, settled):
    load_index(data)
    (tmp_path / "shards").rename(tmp_path / "other")
    load_index(replace(data, shards=str(tmp_path / "other")))
    assert len(list((tmp_path / "cache").glob("*/verified/*.json"))) == 1


@pytest.mark.parametrize("content", ["[1", "[]", '{"sidecars": 3, "folder": ""}'])
def test_damaged_memory_is_no_reason_to_trust(tmp_path, data, settled, content):
    load_index(data)
    for path in (tmp_path / "cache").glob("*/verified/*.json"):
        path.write_text(content)
    flip_byte(tmp_path / "shards/train-000000.idx.npy", 150)
    with pytest.raises(ValueError, match="is not the sidecar"):
        load_index(data)


def test_a_sidecar_that_cannot_be_read_is_not_called_damaged(data, monkeypatch):
    def fail(self):
        raise OSError(5, "Input/output error")

    index = load_index(data)
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: fail(self) if self.suffix == ".npy" else read(self))
    with pytest.raises(Unreachable, match=r"\.idx\.npy: Input/output error"):
        load_index(data)
    assert index.samples == 7
