import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import webdataset

from data_shards.shards.index import load_index
from tests.data_shards.shard_tools import build_folder, encoded, make_images, tree


def keys_of(output):
    dataset = webdataset.WebDataset(sorted(map(str, output.glob("*.tar"))), shardshuffle=False)
    return {sample["__key__"]: sample for sample in dataset}


def test_same_input_same_bytes_for_any_number_of_processes(tmp_path):
    images = make_images(tmp_path / "images", per_class=700)
    for name, workers in (("one", 1), ("again", 1), ("three", 3)):
        build_folder(images, tmp_path / name, shard_mb=1, workers=workers)
    assert tree(tmp_path / "one") == tree(tmp_path / "again") == tree(tmp_path / "three")
    assert len(list((tmp_path / "one").glob("*.tar"))) > 2


def start_build(images, output):
    arguments = ["build", "source=imagefolder", f"input={images}", f"output={output}", "shard_mb=1", "workers=2"]
    return subprocess.Popen([sys.executable, "-m", "data_shards", *arguments], start_new_session=True)


def larger_images(folder, count=1600):
    """So many images of 8 kB: their shards take long enough to be hit in the middle."""
    images = make_images(folder, per_class=0)
    noise = np.random.default_rng(0)
    for i in range(count):
        (images / ("cat", "dog")[i % 2] / f"{i}.jpg").write_bytes(encoded(i % 9) + noise.bytes(6000))
    return images


MOMENTS = {
    "a shard is begun": lambda output, before: list(output.glob("*.tar.data2vec-tmp")),
    "a shard is half there": lambda output, before: any(
        p.stat().st_size > 5e5 for p in output.glob("*.tar.data2vec-tmp")
    ),
    "a shard has its name": lambda output, before: len(list(output.glob("*.tar"))) > before,
    "a record is there": lambda output, before: len(list(output.glob(".build/train/*.json"))) > before,
    "two records are there": lambda output, before: len(list(output.glob(".build/train/*.json"))) > before + 1,
}


def kill_when(killed, output, reached):
    """SIGKILL to the main process alone; its workers have to notice for themselves."""
    before = len(list(output.glob(".build/train/*.json")))
    while killed.poll() is None:
        try:
            if reached(output, before):
                break
        except FileNotFoundError:  # renamed meanwhile
            continue
        time.sleep(0.001)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    time.sleep(0.3)


@pytest.mark.slow
def test_a_build_that_was_killed_five_times_gives_the_same_bytes(tmp_path):
    images = larger_images(tmp_path / "images")
    build_folder(images, tmp_path / "straight", shard_mb=1)
    output = tmp_path / "killed"
    for reached in MOMENTS.values():
        kill_when(start_build(images, output), output, reached)
        assert not (output / "index.json").exists()
    # A record is there from a shard's first byte on; the last kill may come before it says that the shard is whole.
    whole = [path for path in output.glob("*.tar") if "entry" in json.loads(record_of(path).read_text())]
    kept = {path: path.stat().st_mtime_ns for path in whole}
    assert 0 < len(kept) < len(list((tmp_path / "straight").glob("*.tar")))
    assert start_build(images, output).wait() == 0
    assert tree(output) == tree(tmp_path / "straight")
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())


def record_of(shard):
    return shard.parent / ".build" / "train" / f"{shard.stem}.json"


def test_workers_end_with_a_killed_build(tmp_path):
    images = make_images(tmp_path / "images", per_class=1500)
    output = tmp_path / "out"
    build = start_build(images, output)
    while build.poll() is None and not list(output.glob("*.tar")):
        time.sleep(0.002)
    build.kill()
    build.wait()
    deadline = time.monotonic() + 20  # they notice within a second, but may have to wait for a core
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(build.pid, 0)
            time.sleep(0.1)
    before = tree(output)
    time.sleep(1)
    assert tree(output) == before


def test_a_changed_file_changes_its_shard_alone(tmp_path):
    images = make_images(tmp_path / "images", per_class=700)
    build_folder(images, tmp_path / "out", shard_mb=1)
    before = tree(tmp_path / "out")
    changed = images / "cat" / "image_3.jpg"
    data = bytearray(changed.read_bytes())
    data[-3] ^= 1  # the size stays
    changed.write_bytes(data)
    build_folder(images, tmp_path / "out", shard_mb=1)
    after = tree(tmp_path / "out")
    assert [name for name in after if name.endswith(".tar") and after[name] != before[name]] == [
        name for name in before if name.endswith(".tar") and b"cat/image_3.jpg" in before[name]
    ]
    fresh = tmp_path / "fresh"
    build_folder(images, fresh, shard_mb=1)
    assert tree(fresh) == after


def test_fewer_images_leave_no_shard_behind(tmp_path):
    images = make_images(tmp_path / "images", per_class=700)
    build_folder(images, tmp_path / "out", shard_mb=1)
    for path in (images / "dog").iterdir():
        path.unlink()
    build_folder(images, tmp_path / "out", shard_mb=1)
    assert load_index(str(tmp_path / "out")).samples == 700
    assert len(list((tmp_path / "out").glob("*.tar"))) == len(list((tmp_path / "out").glob("*.npy")))


def test_shards_of_others_are_not_overwritten(tmp_path):
    images = make_images(tmp_path / "images")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train-000000.tar").write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"train-000000\.tar was not made by this command"):
        build_folder(images, tmp_path / "out")
    assert (tmp_path / "out" / "train-000000.tar").read_bytes() == b"precious"


def test_two_splits_share_a_folder_and_its_classes(tmp_path):
    images = make_images(tmp_path / "images")
    build_folder(images, tmp_path / "out")
    build_folder(images, tmp_path / "out", name="val")
    content = json.loads((tmp_path / "out" / "index.json").read_text())
    assert [entry["url"] for entry in content["shardlist"]] == ["train-000000.tar", "val-000000.tar"]
    assert content["__kind__"] == "wids-shard-index-v1"
    assert content["totals"]["nsamples"] == 32
    other = make_images(tmp_path / "other", classes=("fish",))
    with pytest.raises(ValueError, match="other classes"):
        build_folder(other, tmp_path / "out", name="test")
