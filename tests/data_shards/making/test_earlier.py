"""A build changes only what it or an earlier build with the same keys made; everything else stays, and is named."""

import json
import multiprocessing
import shutil
import time

import pytest

from configs.schema_commands import BuildConfig
from data_shards.making.build import build
from data_shards.making.earlier import wait_for_writers, writing
from data_shards.shards.index import load_index
from tests.data_shards.shard_tools import build_folder, command, make_images, tree
from tests.data_shards.sources.test_texts import article, build_text, write_source


def everything(folder):
    """Bytes of all files below the folder but the lock, by path."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != ".index.lock"}


def test_another_input_is_refused_in_one_line_that_names_both(tmp_path):
    first, second = make_images(tmp_path / "first", per_class=20), make_images(tmp_path / "second", per_class=2)
    output = tmp_path / "out"
    build_folder(first, output)
    before = everything(output)
    arguments = ["build", "source=imagefolder", f"input={second}", f"output={output}", "workers=1"]
    refused = command(*arguments)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert f"input={first}" in refused.stderr and f"input={second}" in refused.stderr
    assert "overwrite=true" in refused.stderr
    assert everything(output) == before
    assert command(*arguments, "overwrite=true").returncode == 0
    assert load_index(str(output)).samples == 4
    assert command(*arguments).returncode == 0  # the shards are now this command's


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"max_tokens": 16}, r"built with max_tokens=32; this build has max_tokens=16"),
        ({"source": "textfiles", "documents": "lines"}, r"built with source=jsonl documents=files; .*source=textfiles"),
    ],
)
def test_other_keys_are_refused_by_name(tmp_path, keys, told):
    folder = write_source(tmp_path / "in", "jsonl", [article(i) for i in range(20)])
    shutil.copy(folder / "all.jsonl", folder / "all.txt")
    build_text("jsonl", folder, tmp_path / "out")
    before = everything(tmp_path / "out")
    with pytest.raises(ValueError, match=told):
        build_text(keys.get("source", "jsonl"), folder, tmp_path / "out", **{k: keys[k] for k in keys if k != "source"})
    assert everything(tmp_path / "out") == before
    build_text("jsonl", folder, tmp_path / "out", max_tokens=16, overwrite=True)
    assert load_index(str(tmp_path / "out")).entries[0].length_max == 16


def test_a_killed_build_goes_on_with_its_own_keys_alone(tmp_path):
    folder = write_source(tmp_path / "in", "jsonl", [article(i, 400) for i in range(600)])
    build_text("jsonl", folder, tmp_path / "out", shard_mb=1)
    straight = tree(tmp_path / "out")
    for name in ("train-000001.tar", "train-000001.idx.npy", "index.json"):  # as if killed before
        (tmp_path / "out" / name).unlink()
    with pytest.raises(ValueError, match="built with max_tokens=32"):
        build_text("jsonl", folder, tmp_path / "out", shard_mb=1, max_tokens=64)
    build_text("jsonl", folder, tmp_path / "out", shard_mb=1)
    assert tree(tmp_path / "out") == straight


def test_a_moved_input_changes_nothing(tmp_path):
    images = make_images(tmp_path / "images")
    build_folder(images, tmp_path / "out")
    when = (tmp_path / "out" / "train-000000.tar").stat().st_mtime_ns
    images.rename(tmp_path / "moved")
    build_folder(tmp_path / "moved", tmp_path / "out")
    assert (tmp_path / "out" / "train-000000.tar").stat().st_mtime_ns == when


def test_shards_of_unknown_origin_need_overwrite(tmp_path):
    images = make_images(tmp_path / "images")
    build_folder(images, tmp_path / "out")
    (tmp_path / "out/.build/train/build.json").unlink()  # earlier versions wrote none
    build_folder(images, tmp_path / "out")
    (tmp_path / "out/.build/train/build.json").unlink()
    (images / "cat" / "image_0.jpg").unlink()
    with pytest.raises(ValueError, match=r"unknown keys, by an earlier version.*overwrite=true"):
        build_folder(images, tmp_path / "out")
    build_folder(images, tmp_path / "out", overwrite=True)
    assert load_index(str(tmp_path / "out")).samples == 15


@pytest.mark.parametrize(
    "name", ["train-000000.tar", "train-000007.tar", "train-000000.idx.npy", "train-000001.tar.data2vec-tmp"]
)
@pytest.mark.parametrize("built", [False, True])
def test_files_of_others_with_a_shards_name_stay(tmp_path, name, built):
    images = make_images(tmp_path / "images")
    output = tmp_path / "out"
    output.mkdir()
    if built and "000000" not in name:
        build_folder(images, output)
        (images / "cat" / "image_0.jpg").unlink()
    (output / name).write_bytes(b"precious")
    with pytest.raises(ValueError, match=f"{name} was not made by this command"):
        build_folder(images, output, overwrite=True)
    assert (output / name).read_bytes() == b"precious"


def test_files_that_only_resemble_a_shards_stay(tmp_path):
    images, output = make_images(tmp_path / "images"), tmp_path / "out"
    output.mkdir()
    others = [
        "train-notes.tmp",
        "train-1.tar",
        "train-val-000000.tar.data2vec-tmp",
        "train-000000.tar.tmp",
        "train-000000.txt",
        "val-000000.tar",
    ]
    for name in others:
        (output / name).write_bytes(b"precious")
    build_folder(images, output)
    assert {name: (output / name).read_bytes() for name in others} == dict.fromkeys(others, b"precious")


def test_shards_that_the_input_no_longer_fills_are_said(tmp_path):
    folder = write_source(tmp_path / "in", "jsonl", [article(1, 120_000)])
    (folder / "more.jsonl").write_text(json.dumps({"text": article(2, 120_000)}))
    build_text("jsonl", folder, tmp_path / "out", shard_mb=1)
    (folder / "more.jsonl").unlink()
    lines = build_text("jsonl", folder, tmp_path / "out", shard_mb=1)
    assert "removed 1 'train' shards that the input no longer fills" in lines
    assert "there were 8,001 more 'train' samples before, which the input lacks now" in lines
    assert not any("lacks" in line for line in build_text("jsonl", folder, tmp_path / "out", shard_mb=1))


@pytest.mark.parametrize("linked", [False, True])
def test_a_tokenizer_of_others_stays(tmp_path, linked):
    """The user's own tokenizer in the output, or one that a link there points to."""
    folder = write_source(tmp_path / "in", "jsonl", [article(i) for i in range(20)])
    for name, size in (("mine", 300), ("other", 310)):
        build_text("jsonl", folder, tmp_path / name, vocab_size=size, tokenizer="new")
    mine, place = tmp_path / "mine" / "tokenizer", tmp_path / "out" / "tokenizer"
    (mine / "tokenizer_config.json").write_text('{"model_max_length": 77}')
    place.parent.mkdir()
    place.symlink_to(mine) if linked else shutil.copytree(mine, place)
    before = everything(mine)
    with pytest.raises(ValueError, match=f"{place} was not made by this command"):
        build_text("jsonl", folder, tmp_path / "out", tokenizer=str(tmp_path / "other" / "tokenizer"))
    build_text("jsonl", folder, tmp_path / "out")
    assert everything(place) == everything(mine) == before


def test_the_tokenizer_of_an_earlier_build_is_replaced(tmp_path):
    folder = write_source(tmp_path / "in", "jsonl", [article(i) for i in range(20)])
    for name, size in (("out", 300), ("other", 310)):
        build_text("jsonl", folder, tmp_path / name, vocab_size=size, tokenizer="new")
    build_text("jsonl", folder, tmp_path / "out", tokenizer=str(tmp_path / "other" / "tokenizer"), overwrite=True)
    assert tree(tmp_path / "out" / "tokenizer") == tree(tmp_path / "other" / "tokenizer")


def test_an_index_of_others_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.json").write_text('{"mine": 1}')
    with pytest.raises(ValueError, match=r"index\.json is not an index of ours"):
        build(BuildConfig(source="imagefolder", input=str(make_images(tmp_path / "in")), output=str(tmp_path / "out")))
    assert (tmp_path / "out" / "index.json").read_text() == '{"mine": 1}'


def hold(shard, ready, seconds):
    with writing(shard):
        ready.set()
        time.sleep(seconds)


def test_a_build_waits_for_the_last_writer_of_one_that_was_killed(tmp_path):
    """Its half of a file must not get the name of a file that the next build writes."""
    (tmp_path / ".build").mkdir()
    ready = multiprocessing.get_context("fork").Event()
    writer = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path / "a-000000.tar", ready, 0.6))
    writer.start()
    assert ready.wait(20)
    before = time.monotonic()
    wait_for_writers(tmp_path)
    assert time.monotonic() - before > 0.3
    writer.kill()
    writer.join()
    before = time.monotonic()
    wait_for_writers(tmp_path)
    assert time.monotonic() - before < 0.3, "nobody holds it"
