import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import webdataset

from data_shards.__main__ import main
from data_shards.making.validate import validate_shards
from data_shards.shards.index import load_index
from tests.data_shards.shard_tools import build_folder, command, encoded, flip_byte, make_images, tree


def keys_of(output):
    dataset = webdataset.WebDataset(sorted(map(str, output.glob("*.tar"))), shardshuffle=False)
    return {sample["__key__"]: sample for sample in dataset}


def test_class_folders_become_labels(tmp_path):
    images = make_images(tmp_path / "images", classes=("dog", "cat", "ant"))
    (images / "cat" / "deep" / "er").mkdir(parents=True)
    (images / "cat" / "deep" / "er" / "B.PNG").write_bytes(encoded(1, "PNG"))
    build_folder(images, tmp_path / "out")
    samples = keys_of(tmp_path / "out")
    assert len(samples) == 25
    assert samples["cat/deep/er/B"]["cls"] == b"1"
    assert samples["cat/deep/er/B"]["png"] == encoded(1, "PNG")  # bytes as they are
    assert samples["dog/image_0"]["cls"] == b"2"
    assert load_index(str(tmp_path / "out")).classes == ("ant", "cat", "dog")


def test_a_flat_folder_has_no_labels(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.webp").write_bytes(encoded(i, "WEBP"))
    lines = build_folder(tmp_path, tmp_path / "out")
    assert "no labels" in lines[-1]
    assert [set(s) & {"cls", "webp"} for s in keys_of(tmp_path / "out").values()] == [{"webp"}] * 3


def test_keys_are_unique_and_without_dots(tmp_path):
    for name in ("a.b.jpg", "a_b.jpg", "a.jpg", "a.png", "a.JPG", "a_2.jpg"):
        (tmp_path / name).write_bytes(encoded(0))
    build_folder(tmp_path, tmp_path / "out")
    keys = sorted(keys_of(tmp_path / "out"))
    assert len(keys) == 6 and not any("." in key for key in keys)


def test_oddities_are_counted_by_name(tmp_path):
    images = make_images(tmp_path / "images")
    (images / "cat" / "empty.jpg").touch()
    (images / "cat" / "notes.txt").write_text("x")
    (images / "cat" / ".hidden.jpg").write_bytes(b"x")
    (images / "cat" / "gone.jpg").symlink_to("nowhere")
    (images / "cat" / "loop").symlink_to(images)
    (images / "bird").mkdir()
    lines = "\n".join(build_folder(images, tmp_path / "out"))
    for name in ("0 bytes): cat/empty.jpg", "cat/notes.txt", "cat/.hidden.jpg", "cat/gone.jpg", "cat/loop", "bird"):
        assert name in lines
    assert "16 samples" in lines and "3 classes" in lines


def test_everything_left_out_is_listed(tmp_path):
    images = make_images(tmp_path / "images")
    for i in range(12):
        (images / "dog" / f"broken{i:02d}.jpg").write_bytes(b"\xff\xd8 no image")
    (images / "cat" / "cut.png").write_bytes(encoded(0, "PNG")[:20])
    (images / "cat" / "odd\n\tname\udcff.txt").touch()
    (images / "cat" / "self").symlink_to("self")
    (images / "cat" / "self.jpg").symlink_to("self.jpg")
    told = "\n".join(build_folder(images, tmp_path / "out"))
    listed = tmp_path / "out" / ".build" / "train" / "left_out.tsv"
    reason = "damaged or no image: its header cannot be read"
    assert f"left out 13 ({reason}): " in told and f", ... (all in {listed})\n" in told and "16 samples" in told
    rows = [line.split(b"\t") for line in listed.read_bytes().splitlines()]
    assert [len(row) for row in rows] == [2] * 16
    names = sorted(name for why, name in rows if why == reason.encode())
    assert names == sorted(bytes(path) for path in [images / "cat/cut.png", *images.glob("dog/broken*")])
    assert [b"broken link or no plain file", b"cat/self.jpg"] in rows
    assert rows[-2][1] == b"cat/odd\\n\\tname\xff.txt"
    assert told.encode() and validate_shards(str(tmp_path / "out"), deep=True, workers=1) == ([], 1)


def test_an_unreadable_file_is_left_out_until_it_is_readable(tmp_path, monkeypatch):
    images = make_images(tmp_path / "images")
    readable = Path.read_bytes

    def read(path):
        if path.name == "image_3.jpg":
            raise PermissionError(13, "Permission denied", str(path))
        return readable(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    assert any(line.startswith("left out 2 (unreadable: Permission") for line in build_folder(images, tmp_path / "out"))
    monkeypatch.undo()
    lines = build_folder(images, tmp_path / "out")
    assert len(lines) == 1 and "16 samples" in lines[0]


def test_a_disk_that_gives_back_something_else_is_noticed(tmp_path, monkeypatch):
    images = make_images(tmp_path / "images")

    def forget(descriptor, *_):
        flip_byte(tmp_path / "out" / "train-000000.tar.tmp", 2000)

    monkeypatch.setattr(os, "posix_fadvise", forget)
    with pytest.raises(OSError, match=r"train-000000\.tar\.tmp does not hold what was just written to it"):
        build_folder(images, tmp_path / "out")
    assert tree(tmp_path / "out") == {}


def test_all_names_that_are_too_long_are_listed(tmp_path):
    images = make_images(tmp_path / "images")
    for i in range(25):
        (images / "cat" / ("x" * 200 + f"{i}.jpg")).write_bytes(encoded(0))
    with pytest.raises(ValueError, match="too long for a tar header") as refused:
        build_folder(images, tmp_path / "out")
    lines = str(refused.value).splitlines()
    assert len(set(lines)) == 21 and lines[-1] == "... and 5 files more"


def test_linked_folders_are_followed(tmp_path):
    make_images(tmp_path / "real")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "kitten").symlink_to(tmp_path / "real" / "cat")
    build_folder(tmp_path / "images", tmp_path / "out")
    assert len(keys_of(tmp_path / "out")) == 8


@pytest.mark.parametrize("case", ["mixed", "nothing", "missing", "long name"])
def test_what_cannot_be_built_is_refused_by_name(tmp_path, case):
    images = make_images(tmp_path / "images")
    match case:
        case "mixed":
            (images / "stray.jpg").write_bytes(encoded(0))
            words = "stray.jpg"
        case "nothing":
            images = tmp_path / "empty"
            images.mkdir()
            words = "holds no image"
        case "missing":
            images, words = tmp_path / "nowhere", "is not a folder"
        case "long name":
            (images / "cat" / ("x" * 200 + ".jpg")).write_bytes(encoded(0))
            words = "x" * 200
    with pytest.raises(ValueError, match=words):
        build_folder(images, tmp_path / "out")


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
    "a shard is begun": lambda output, before: list(output.glob("*.tar.tmp")),
    "a shard is half there": lambda output, before: any(p.stat().st_size > 5e5 for p in output.glob("*.tar.tmp")),
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
    kept = {path: path.stat().st_mtime_ns for path in output.glob("*.tar") if record_of(path).exists()}
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


def test_the_command_line(tmp_path):
    images = make_images(tmp_path / "images")
    done = command("build", "source=imagefolder", f"input={images}", f"output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert "16 samples in 1 shards, 2 classes" in done.stdout
    missing = command("build", "source=imagefolder", "input=/nowhere", f"output={tmp_path / 'b'}")
    assert missing.returncode == 1 and missing.stderr == (
        "error: input=/nowhere is not a folder; give the folder that holds the images or the class folders\n"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["build", "source=imagefolder", "output=x", "inputt=y"],
            "error: unknown key 'inputt': did you mean 'input'?\n",
        ),
        (["validate"], "error: 'shards' is missing: give shards=VALUE\n"),
        (["biuld"], "error: unknown command 'biuld': did you mean 'build'?\nusage: "),
        ([], "usage: "),
    ],
)
def test_wrong_usage_is_code_2(arguments, told, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and capsys.readouterr().err.startswith(told)


@pytest.mark.parametrize(
    ("arguments", "told"), [(["--help"], "usage: "), (["build", "--help"], "  source="), (["index", "-h"], "  shards=")]
)
def test_help_is_code_0(arguments, told, capsys):
    try:
        main(arguments)
    except SystemExit as ended:
        assert ended.code == 0
    assert capsys.readouterr().out.startswith(told)
