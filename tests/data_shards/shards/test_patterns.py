"""Patterns of shards: folders, globs and braces."""

import re

import pytest

from data_shards.shards.index_file import FolderIndexes
from data_shards.shards.patterns import check_one_name, resolve
from tests.data_shards.shard_tools import make_shards


def test_resolve_folder_glob_and_braces(tmp_path):
    pattern = make_shards(tmp_path / "a", (2, 2, 2))
    everything = [f"{tmp_path}/a/train-{i:06d}.tar" for i in range(3)]
    assert resolve(pattern) == resolve(str(tmp_path / "a")) == everything
    assert resolve(f"{tmp_path}/a/train-{{000000..000001}}.tar") == everything[:2]
    assert resolve(f"{tmp_path}/?/train-000002.tar") == everything[2:]
    assert resolve(f"{tmp_path}/a/train-{{000001,*}}.tar") == [everything[1], everything[0], everything[2]]


@pytest.mark.parametrize("pattern", ["", "/nowhere/*.tar", "/nowhere", "/nowhere/x-{0..3}.tar"])
def test_no_shards_match(pattern):
    with pytest.raises(ValueError, match=f"^no shards match .*{pattern[:8]}.*; give a folder, a glob or braces"):
        resolve(pattern)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["train-00", "train-01", "val-00"], ": train-*.tar (2), val-*.tar (1); give one of them, as {0}/train-"),
        (["train", "test"], ": test.tar (1), train.tar (1); give one of them, as {0}/test.tar, or all, {0}/*.tar"),
        (["a_1", "b_1", "c_1", "d_1", "e_1", "f_1"], "e_*.tar (1) and 1 more; give"),
        (["00000", "00001"], ""),
        (["x-00000-of-00002", "x-00001-of-00002"], ""),
        (["x-9", "x-10"], ""),
    ],
)
def test_a_folder_of_several_names_needs_one_named(tmp_path, names, told):
    for name in names:
        (tmp_path / f"{name}.tar").touch()
    check_one_name((f"{tmp_path}/*.tar", f"{tmp_path}/{names[0]}.tar"), FolderIndexes())
    if not told:
        check_one_name(str(tmp_path), FolderIndexes())
        return
    with pytest.raises(ValueError, match=re.escape(told.format(tmp_path))):
        check_one_name((f"{tmp_path}/*.tar", f"{tmp_path}/"), FolderIndexes())
