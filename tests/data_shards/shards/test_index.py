import pytest

from data_shards.shards.index import load_index
from data_shards.shards.sidecar import read_rows, sidecar
from tests.data_shards.shard_tools import make_shards


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
