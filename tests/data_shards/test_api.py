"""Shards in Python: the example of the documentation, and what reading gives or refuses."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from data_shards.api import ShardWriter, open_shards
from tests.data_shards.shard_tools import clip, encoded, make_shards

ROOT = Path(__file__).parents[2]


def test_the_example_of_the_documentation_runs(tmp_path):
    page = (ROOT / "docs/data.md").read_text()
    script = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    (tmp_path / "script.py").write_text(script)
    for _ in range(2):  # the second goes on from the first
        done = subprocess.run(
            [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "200 samples of 2 classes, the first (32, 32, 3): horizontal"


def test_samples_are_read_by_number_slice_and_in_order(tmp_path):
    shards = open_shards(make_shards(tmp_path, (3, 2)))
    assert len(shards) == 5 and shards.classes == ("a", "b", "c")
    assert [sample.key for sample in shards] == [f"{i:06d}" for i in range(5)]
    assert shards[-1].key == "000004" and [sample.cls for sample in shards[1:3]] == [1, 2]
    assert shards[0].image().shape == (30, 40, 3) and shards[0].txt is None and shards[0].modality == "vision"
    with pytest.raises(ValueError, match="sample '000000': no recording among its members: cls, jpg"):
        shards[0].audio()
    with pytest.raises(IndexError):
        shards[5]


def test_recordings_and_tokens_are_decoded(tmp_path):
    with ShardWriter(tmp_path / "a") as writer:
        writer.write("a", audio=clip(0, 3000), txt="said")
    sample = open_shards(str(tmp_path / "a"))[0]
    assert len(sample.audio()) == 3000 and (sample.txt, sample.cls) == ("said", None)
    tokens = open_shards(make_shards(tmp_path / "b", (1,), modality="text"))[0].tokens()
    assert tokens.dtype.kind == "u" and len(tokens) >= 3


def test_damage_is_named_with_shard_and_key(tmp_path):
    with ShardWriter(tmp_path) as writer:
        writer.write("a", image=encoded(0))
    shard = tmp_path / "train-000000.tar"
    shard.write_bytes(shard.read_bytes()[:600] + b"?" + shard.read_bytes()[601:])
    with pytest.raises(ValueError, match="train-000000.tar, key 'a'.*checksum"):
        open_shards(str(tmp_path))[0]
