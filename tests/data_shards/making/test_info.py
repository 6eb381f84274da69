"""`shards info`: what it tells at once, and what it looks into."""

import pytest

from data_shards.making.info import describe
from data_shards.making.writer import save_folder_index, write_shard
from data_shards.shards.index_file import FolderIndex
from data_shards.text.tokens import tokens_npy
from tests.data_shards.http_store import serve
from tests.data_shards.shard_tools import clip, command, damage, encoded, make_shards, member


def test_counts_sizes_and_a_histogram_from_the_index(tmp_path):
    make_shards(tmp_path / "v", (3, 5))
    make_shards(tmp_path / "t", (4,), modality="text")
    images, texts = "\n".join(describe(str(tmp_path / "v"))), "\n".join(describe(str(tmp_path / "t")))
    assert "shards     2: " in images and "samples    8: " in images and "0: a" in images
    assert "total      0.016 megapixels" in images and "tokenizer" not in images
    bars = [line.split() for line in texts.splitlines() if "#" in line]
    assert "tokenizer  300 types" in texts and "tokens" in texts and sum(int(bar[-1]) for bar in bars) == 4


def test_groups_by_folder_and_name_with_a_sum(tmp_path):
    for name in ("a", "b"):
        make_shards(tmp_path / name, (2,), modality="speech")
    lines = list(describe((str(tmp_path / "a"), str(tmp_path / "b"))))
    assert sum("hours" in line for line in lines) == 2
    assert lines[-3].startswith("in all: 4 samples in 2 shards, ")
    assert lines[-2].startswith("attention: 2 samples are there twice, key included")
    assert lines[-1].startswith("not decoded: deep=true finds ")


def test_unreadable_samples_and_warnings_are_told(tmp_path):
    samples = [("a", {"jpg": encoded(0)}), ("b", {"jpg": b"none"})]
    save_folder_index(tmp_path, FolderIndex((write_shard(tmp_path / "a-0.tar", samples),)))
    with (tmp_path / "a-0.tar").open("ab") as file:
        file.write(bytes(512))
    done = command("info", f"shards={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "unreadable 1 samples have length 0" in done.stdout
    assert "warning: " in done.stdout.splitlines()[-1] and "its index says" in done.stdout


@pytest.mark.parametrize(
    ("modality", "small", "words"),
    [
        ("vision", {"png": encoded(0, "PNG", (44, 45))}, "images of at most 2,000 pixels, about 44 a side"),
        ("speech", {"flac": clip(0, 700)}, "recordings too short to be masked, which a run replaces"),
        ("text", {"npy": tokens_npy([0, 2], 300)}, "empty texts, which a run replaces"),
    ],
)
def test_samples_that_are_too_small_are_told_from_the_index(tmp_path, modality, small, words):
    large = {"png": encoded(0, "PNG", (46, 45))} if modality == "vision" else member(3, modality)
    samples = [("a", large), ("b", small)]
    save_folder_index(tmp_path, FolderIndex((write_shard(tmp_path / "a-0.tar", samples),)))
    assert f"  attention  1 of 2: {words}" in list(describe(str(tmp_path)))


def test_remote_shards_are_looked_into_only_as_far_as_asked(tmp_path):
    make_shards(tmp_path, (6,))
    with serve(tmp_path) as store:
        url = f"{store.url}/train-000000.tar"
        assert any("n=1000 counts those of 1,000 samples" in line for line in describe(url))
        some, deep = list(describe(url, samples=3)), list(describe(url, deep=True))
    assert "  classes    3, among 3 samples:" in some and "  classes    3:" in deep
    assert any(line.startswith("  decoded    6 samples") for line in deep)


def test_the_command_decodes_and_names_what_is_damaged(tmp_path):
    make_shards(tmp_path, (6,))
    damage(tmp_path, (1,))
    done = command("info", f"shards={tmp_path}", "deep=true", "workers=1")
    assert done.returncode == 0, done.stderr
    assert "  attention  1 of 6 samples are damaged: key '000001' (row 1) (train-000000.tar)\n" in done.stdout
