"""index.json: what it may say, and damage by name."""

import json

import pytest

from data_shards.shards.index import load_index
from data_shards.shards.index_file import read_folder_index
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


def test_every_flipped_bit_of_an_index_is_refused_or_changes_nothing(tmp_path):
    """In names of keys, class names and numbers alike; the bits of white space are the ones that may change nothing."""
    pattern = make_shards(tmp_path, (2,), modality="text")
    path = tmp_path / "index.json"
    data, before = path.read_bytes(), read_folder_index(tmp_path)
    for place in range(0, 8 * len(data), 19):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            assert read_folder_index(tmp_path) == before and data[place // 8 : place // 8 + 1].isspace(), place
        except ValueError as error:
            assert "index.json is not an index of ours" in str(error)
    path.write_bytes(data)
    assert load_index(pattern).classes == ("a", "b", "c")


@pytest.mark.parametrize(("old", "new"), [("classes", "clasres"), ("tokenizer", "tokenizes"), ("totals", "totalr")])
def test_an_older_index_has_no_checksum_and_still_known_keys(tmp_path, old, new):
    make_shards(tmp_path, (2,), modality="text")
    path = tmp_path / "index.json"
    content = json.loads(path.read_text())
    del content["content_sha256"]
    path.write_text(json.dumps(content))
    assert read_folder_index(tmp_path).tokenizer
    path.write_text(json.dumps({new if key == old else key: value for key, value in content.items()}))
    with pytest.raises(ValueError, match=rf"index\.json is not an index of ours .*unknown key '{new}'"):
        read_folder_index(tmp_path)
