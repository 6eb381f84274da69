import numpy as np
import pytest

from data_shards.shards.index import load_index
from data_shards.shards.patterns import resolve
from data_shards.shards.sidecar import read_rows, sidecar
from tests.data_shards.shard_tools import flip_byte, make_shards


def test_resolve_folder_glob_and_braces(tmp_path):
    pattern = make_shards(tmp_path / "a", (2, 2, 2))
    everything = [f"{tmp_path}/a/train-{i:06d}.tar" for i in range(3)]
    assert resolve(pattern) == resolve(str(tmp_path / "a")) == everything
    assert resolve(f"{tmp_path}/a/train-{{000000..000001}}.tar") == everything[:2]
    assert resolve(f"{tmp_path}/?/train-000002.tar") == everything[2:]
    assert resolve(f"{tmp_path}/a/train-{{000001,*}}.tar") == [everything[1], everything[0], everything[2]]


@pytest.mark.parametrize("pattern", ["", "/nowhere/*.tar", "/nowhere", "/nowhere/x-{0..3}.tar"])
def test_no_shards_match(pattern):
    with pytest.raises(ValueError, match="no shards match"):
        resolve(pattern)


def test_a_shard_that_the_index_promises_is_missing(tmp_path):
    pattern = make_shards(tmp_path, (2, 2))
    (tmp_path / "train-000001.tar").unlink()
    with pytest.raises(ValueError, match=r"do not exist, the first: .*train-000001\.tar"):
        load_index(pattern)


def test_ids_and_locations(tmp_path):
    index = load_index(make_shards(tmp_path, (3, 0, 4)))
    assert index.samples == 7
    assert [index.locate(i) for i in (0, 2, 3, 6)] == [(0, 0), (0, 2), (2, 0), (2, 3)]


def test_an_empty_shard_is_a_warning_and_an_empty_set_an_error(tmp_path):
    assert "train-000001.tar is empty" in load_index(make_shards(tmp_path / "a", (3, 0, 4))).warnings[0]
    with pytest.raises(ValueError, match="no samples"):
        load_index(make_shards(tmp_path / "b", (0, 0)))


def test_a_missing_sidecar_or_index_names_the_command(tmp_path):
    pattern = make_shards(tmp_path, (2, 2))
    sidecar(tmp_path / "train-000001.tar").unlink()
    with pytest.raises(ValueError, match=r"\./run\.sh shards index shards=.*train-000001\.tar"):
        load_index(pattern)
    (tmp_path / "index.json").unlink()
    with pytest.raises(ValueError, match=r"\./run\.sh shards index shards="):
        load_index(pattern)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x93NUMPY\x01\x00"])
def test_a_damaged_sidecar_is_named(tmp_path, content):
    pattern = make_shards(tmp_path, (2,))
    sidecar(tmp_path / "train-000000.tar").write_bytes(content)
    with pytest.raises(ValueError, match=r"train-000000\.idx\.npy is damaged"):
        load_index(pattern)


def test_a_pickled_sidecar_is_not_unpickled(tmp_path):
    pattern = make_shards(tmp_path, (2,))
    np.save(sidecar(tmp_path / "train-000000.tar"), np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="damaged"):
        load_index(pattern)


def test_a_truncated_shard_is_counted(tmp_path):
    pattern = make_shards(tmp_path, (10,))
    shard = tmp_path / "train-000000.tar"
    rows = read_rows(shard)
    with shard.open("r+b") as file:
        file.truncate(int(rows["offset"][6]) + 700)
    assert "4 of its 10 samples lie behind its end" in load_index(pattern).warnings[0]


def test_the_digest_follows_the_content_and_not_the_place(tmp_path):
    one = load_index(make_shards(tmp_path / "a", (3, 4)))
    assert one.digest == load_index(make_shards(tmp_path / "b", (3, 4))).digest
    assert one.digest != load_index(make_shards(tmp_path / "c", (3, 4), first_seed=1)).digest
    assert one.digest != load_index(f"{tmp_path}/a/train-000000.tar").digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"train-000000.tar"', '"../train-000000.tar"'),
        ('"nsamples": 2', '"nsamples": -2'),
        ('"nsamples": 2', '"nsamples": "2"'),
        ('"filesize": ', '"filesize": 0'),
        ('"classes": [', '"classes": [[1], '),
    ],
)
def test_an_index_that_points_elsewhere_or_counts_wrongly_is_refused(tmp_path, old, new):
    pattern = make_shards(tmp_path, (2,))
    text = (tmp_path / "index.json").read_text()
    (tmp_path / "index.json").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=r"index\.json is not an index of ours"):
        load_index(pattern)


def test_a_damaged_index_is_named(tmp_path):
    pattern = make_shards(tmp_path, (3,))
    flip_byte(tmp_path / "index.json", 0)
    with pytest.raises(ValueError, match=r"index\.json is not an index"):
        load_index(pattern)
