"""Samples that are there twice, by the index and by their content."""

import shutil

from data_shards.making.contents import look
from data_shards.making.repeats import same_bytes, same_content
from data_shards.making.writer import save_folder_index, write_shard
from data_shards.shards.index import load_index
from data_shards.shards.index_file import FolderIndex
from tests.data_shards.shard_tools import encoded, make_shards


def shard(folder, *samples):
    folder.mkdir(exist_ok=True)
    save_folder_index(folder, FolderIndex((write_shard(folder / "a-0.tar", samples),)))
    return str(folder)


def by_content(index):
    contents = look(index, range(len(index.paths)), None, True, 1)
    return same_content(index, contents.ids, contents.hashes)


def test_the_same_samples_in_two_folders(tmp_path):
    make_shards(tmp_path / "a", (5,))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    index = load_index((str(tmp_path / "a"), str(tmp_path / "b")))
    told = same_bytes(index)
    assert told.startswith("5 samples are there twice, key included (by size and checksum): ")
    assert f"{tmp_path}/a/train-000000.tar: 00000" in told and told.endswith(", ...")
    assert by_content(index).startswith("5 samples are there twice, byte for byte, ")


def test_the_same_content_under_two_keys(tmp_path):
    one, other = encoded(1), encoded(2)
    index = load_index(shard(tmp_path, ("x", {"jpg": one}), ("y", {"jpg": other}), ("z", {"jpg": one, "cls": b"1"})))
    assert same_bytes(index) == ""
    assert by_content(index) == ("1 sample is there twice, byte for byte, whatever the keys: a-0.tar: x = a-0.tar: z")


def test_nothing_is_told_of_different_samples(tmp_path):
    make_shards(tmp_path, (5,))
    index = load_index(str(tmp_path))
    assert same_bytes(index) == by_content(index) == ""
