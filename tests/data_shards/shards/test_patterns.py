"""Patterns of shards: folders, globs and braces."""

import pytest

from data_shards.shards.patterns import resolve
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
