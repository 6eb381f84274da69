"""Shards from scripts: as `shards build` makes them, continued where a script was killed, refused where it errs."""

import subprocess
import sys

import numpy as np
import pytest

from data_shards.making.shard_writer import ShardWriter
from data_shards.making.validate import validate_shards
from data_shards.shards.index import load_index
from tests.data_shards.making.test_build import keys_of
from tests.data_shards.shard_tools import build_folder, clip, encoded, make_images, tree


def noisy(seed):
    """An image with noise behind it, so that shards of 1 MiB hold few."""
    return encoded(seed % 7) + np.random.default_rng(seed).bytes(60_000)


def write(output, numbers, stop=None, **keys):
    with ShardWriter(output, shard_mb=1, classes=["cat", "dog"], **keys) as writer:
        for i in numbers:
            if i == stop:
                raise KeyboardInterrupt
            writer.write(f"a/{i:03d}", image=noisy(i), cls=i % 2, txt=f"said {i}")
    return writer


def test_samples_are_written_with_classes_and_texts(tmp_path):
    (tmp_path / "b.png").write_bytes(encoded(1, "PNG"))
    with ShardWriter(tmp_path / "out", "mine", classes=("cat", "dog")) as writer:
        assert writer.write("a", image=encoded(0), cls="dog", txt="said") and "a" in writer
        assert writer.write("b", image=tmp_path / "b.png", cls=0)
        assert not writer.write("c", image=b"no image") and writer.samples == 2
    found = keys_of(tmp_path / "out")
    assert (found["a"]["jpg"], found["a"]["cls"], found["a"]["txt"]) == (encoded(0), b"1", b"said")
    assert found["b"]["png"] == encoded(1, "PNG") and set(found) == {"a", "b"}
    assert load_index(str(tmp_path / "out")).classes == ("cat", "dog")
    assert validate_shards(str(tmp_path / "out"), deep=True, workers=1) == ([], 1)
    listed = (tmp_path / "out/.build/mine/left_out.tsv").read_text()
    assert listed.startswith("damaged or no image\tkey c (") and writer.left_out.notes()


def test_recordings_are_stored_as_from_folders(tmp_path):
    with ShardWriter(tmp_path / "out", segment_seconds=0.1, min_seconds=0.05) as writer:
        writer.write("a", audio=clip(0, 3200))
        writer.write("b", audio=clip(0, 3200), txt="whole")
        assert not writer.write("c", audio=clip(0, 799))
    assert set(keys_of(tmp_path / "out")) == {"a/piece0000", "a/piece0001", "b"}
    assert "shorter than min_seconds=0.05" in writer.left_out.reasons


def test_a_script_that_was_stopped_goes_on_with_the_same_bytes(tmp_path):
    write(tmp_path / "whole", range(60))
    assert len([*(tmp_path / "whole").glob("*.tar")]) > 3
    for stop in (3, 40):
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "out", range(60), stop)
        assert not (tmp_path / "out/index.json").exists()
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    assert shards
    write(tmp_path / "out", range(60))
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert shards.items() <= {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}.items()


SCRIPT = """
import os, sys
from tests.data_shards.making.test_shard_writer import noisy, ShardWriter
with ShardWriter(sys.argv[1], shard_mb=1, classes=["cat", "dog"]) as writer:
    for i in range(60):
        writer.write(f"a/{i:03d}", image=noisy(i), cls=i % 2, txt=f"said {i}")
        if i == 50 and len(sys.argv) > 2:
            os.kill(os.getpid(), 9)
"""


def test_a_script_that_was_killed_goes_on_with_the_same_bytes(tmp_path):
    killed = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / "out"), "kill"])
    assert killed.returncode == -9 and len([*(tmp_path / "out").glob("*.tar")]) > 1
    write(tmp_path / "out", range(60))
    write(tmp_path / "whole", range(60))
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_samples_are_appended_and_a_lost_shard_is_written_again(tmp_path):
    write(tmp_path / "out", range(40))
    before = tree(tmp_path / "out")
    write(tmp_path / "out", range(50))
    assert len(keys_of(tmp_path / "out")) == 50
    (tmp_path / "out/train-000001.tar").unlink()
    write(tmp_path / "out", range(50))
    assert len(keys_of(tmp_path / "out")) == 50 == load_index(str(tmp_path / "out")).samples
    assert tree(tmp_path / "out")["train-000001.tar"] == before["train-000001.tar"]


@pytest.mark.parametrize(
    "sample, said",
    [
        ({"key": "a.b", "image": b""}, "a key is a path without dots"),
        ({"key": "/a", "image": b""}, "a key is a path without dots"),
        ({"key": "__x__/a", "image": b""}, "a key is a path without dots"),
        ({"key": "", "image": b""}, "a key is a path without dots"),
        ({"key": "a" * 300, "image": b""}, "too long"),
        ({"key": "a"}, "image=... or audio=..., and not both"),
        ({"key": "a", "image": b"", "audio": b""}, "image=... or audio=..., and not both"),
        ({"key": "a", "image": 3}, "encoded bytes or the path of a file, not int"),
        ({"key": "a", "image": b"", "cls": "emu"}, "cls='emu' is not one of the 2 classes"),
        ({"key": "a", "image": b"", "cls": 2}, "cls=2 is not one of the 2 classes"),
        ({"key": "there", "image": b""}, "key 'there' was given before"),
        ({"key": "a", "audio": b""}, "a recording among images"),
    ],
)
def test_mistakes_are_named(tmp_path, sample, said):
    with ShardWriter(tmp_path / "out", classes=["cat", "dog"]) as writer:
        writer.write("there", image=encoded(0))
        with pytest.raises(ValueError, match=said):
            writer.write(**sample)


def test_shards_of_others_are_not_touched(tmp_path):
    build_folder(make_images(tmp_path / "images"), tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(ValueError, match=r"was written with source='imagefolder'.*overwrite=True"):
        write(tmp_path / "out", range(3))
    with pytest.raises(ValueError, match="holds shards with other classes"), ShardWriter(tmp_path / "out", "val"):
        pass
    assert tree(tmp_path / "out") == before
    write(tmp_path / "out", range(3), overwrite=True)
    assert len(keys_of(tmp_path / "out")) == 3
    with pytest.raises(ValueError, match=r"was written with shard_mb=1.*not.*shard_mb=2"):
        ShardWriter(tmp_path / "out", shard_mb=2, classes=["cat", "dog"]).__enter__()
    with pytest.raises(ValueError, match="was built with source=ShardWriter"):
        build_folder(tmp_path / "images", tmp_path / "out")


def test_two_writers_of_one_name_exclude_each_other_and_two_names_do_not(tmp_path):
    with ShardWriter(tmp_path, "train") as one, ShardWriter(tmp_path, "val") as other:
        with pytest.raises(ValueError, match="in use by another ShardWriter"), ShardWriter(tmp_path, "train"):
            pass
        one.write("a", image=encoded(0))
        other.write("a", image=encoded(1))
    assert load_index(str(tmp_path / "train-*.tar")).samples == load_index(str(tmp_path / "val-*.tar")).samples == 1


def test_no_sample_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no sample was written; left out 1"), ShardWriter(tmp_path) as writer:
        writer.write("a", image=b"none")
