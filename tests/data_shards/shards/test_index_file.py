"""index.json: what it may say, and damage by name."""

import pytest

from data_shards.shards.index import load_index
from tests.data_shards.shard_tools import flip_byte, make_shards


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
