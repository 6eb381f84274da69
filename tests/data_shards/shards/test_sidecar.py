"""Sidecars: damage is named, and nothing is unpickled."""

import numpy as np
import pytest

from data_shards.shards.index import load_index
from data_shards.shards.sidecar import read_rows, sidecar
from tests.data_shards.shard_tools import make_shards


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x93NUMPY\x01\x00"])
def test_a_damaged_sidecar_is_named(tmp_path, content):
    pattern = make_shards(tmp_path, (2,))
    sidecar(tmp_path / "train-000000.tar").write_bytes(content)
    with pytest.raises(ValueError, match=r"train-000000\.idx\.npy is not the sidecar that index\.json promises"):
        load_index(pattern)
    with pytest.raises(ValueError, match=r"train-000000\.idx\.npy is damaged"):
        read_rows(tmp_path / "train-000000.tar")


def test_a_pickled_sidecar_is_not_unpickled(tmp_path):
    pattern = make_shards(tmp_path, (2,))
    np.save(sidecar(tmp_path / "train-000000.tar"), np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="damaged"):
        load_index(pattern)
    with pytest.raises(ValueError, match="damaged"):
        read_rows(tmp_path / "train-000000.tar")
