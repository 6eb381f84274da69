"""Shards that are written whole or not at all."""

import os
import resource
import signal
import subprocess
import sys

import pytest

from tests.data_shards.shard_tools import build_folder, flip_byte, make_images, tree


def test_a_disk_that_gives_back_something_else_is_noticed(tmp_path, monkeypatch):
    images = make_images(tmp_path / "images")

    def forget(descriptor, *_):
        flip_byte(tmp_path / "out" / "train-000000.tar.data2vec-tmp", 2000)

    monkeypatch.setattr(os, "posix_fadvise", forget)
    with pytest.raises(OSError, match=r"train-000000\.tar\.data2vec-tmp does not hold what was just written to it"):
        build_folder(images, tmp_path / "out")
    assert tree(tmp_path / "out") == {}


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    """A limit on file sizes stands in for the disk: the second write fails as ENOSPC would."""
    images = make_images(tmp_path / "images", per_class=700)
    arguments = ["build", "source=imagefolder", f"input={images}", f"output={tmp_path / 'out'}", "workers=1"]

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    done = subprocess.run(
        [sys.executable, "-m", "data_shards", *arguments], capture_output=True, text=True, preexec_fn=limit
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert tree(tmp_path / "out") == {}
