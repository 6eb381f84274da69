import os

import numpy as np
import webdataset

from configs.signals import frames
from data_shards.making.indexer import index_shards
from data_shards.making.validate import validate_shards
from data_shards.shards.index import load_index
from data_shards.shards.reader import Reader
from data_shards.shards.sidecar import read_rows, sidecar
from data_shards.shards.tar import END, sample_blocks
from data_shards.text.tokenizer import train_tokenizer
from tests.data_shards.shard_tools import clip, command, encoded, make_shards, tree


def foreign(path, keys):
    """A shard by webdataset's writer, with its float times and pax headers."""
    with webdataset.TarWriter(str(path)) as writer:
        for i, key in enumerate(keys):
            writer.write({"__key__": key, "jpg": encoded(i), "cls": i})


def test_tars_of_others_are_read_like_webdataset_reads_them(tmp_path):
    foreign(tmp_path / "x0.tar", ["a", "b", "c"])
    foreign(tmp_path / "x1.tar", ["d" * 150, "e"])
    assert index_shards(f"{tmp_path}/*.tar")[1] == []
    index = load_index(f"{tmp_path}/*.tar")
    reader = Reader(index)
    ours = [reader.read(i) for i in range(index.samples)]
    theirs = webdataset.WebDataset([str(tmp_path / "x0.tar"), str(tmp_path / "x1.tar")], shardshuffle=False)
    assert [(s.key, s.members["jpg"], s.members["cls"]) for s in ours] == [
        (s["__key__"], s["jpg"], s["cls"]) for s in theirs
    ]
    assert validate_shards(str(tmp_path)) == ([], 2)


def test_indexing_again_gives_what_the_build_wrote(tmp_path):
    pattern = make_shards(tmp_path, (5, 0, 3))
    before = tree(tmp_path)
    for path in sorted(tmp_path.glob("*.tar")):
        sidecar(path).unlink()
    lines, _ = index_shards(pattern)
    assert tree(tmp_path) == before
    assert any("train-000001.tar is empty" in line for line in lines)
    assert read_rows(tmp_path / "train-000000.tar")["length"].tolist() == [2] * 5  # 40 x 30 pixels


def test_recordings_and_tokens_of_others_get_their_lengths_and_tokenizer(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "x0.tar")) as writer:
        writer.write({"__key__": "a", "flac": clip(0, 4000), "txt": "said"})
        writer.write({"__key__": "b", "wav": b"damaged"})
        writer.write({"__key__": "c", "npy": np.arange(7, dtype=np.uint16)})
    index_shards(str(tmp_path))
    assert read_rows(tmp_path / "x0.tar")["length"].tolist() == [frames(4000), 0, 7]
    assert load_index(str(tmp_path)).tokenizer is None
    tokenizer = train_tokenizer(["some text"], 300)
    tokenizer.save(tmp_path / "tokenizer")
    index_shards(str(tmp_path))
    assert load_index(str(tmp_path)).tokenizer == tokenizer.entry


def test_files_of_other_programs_are_kept(tmp_path):
    foreign(tmp_path / "x0.tar", ["a", "b"])
    theirs = {"index.json": '{"__kind__": "wids-shard-index-v1", "shardlist": []}', "x0.idx.npy": "their own index"}
    theirs["index.json"] = theirs["index.json"].replace("[]", '[{"url": "x0.tar", "nsamples": 2}]')
    for name, text in theirs.items():
        (tmp_path / name).write_text(text)
    for again in ("", "2"):
        lines, refused = index_shards(f"{tmp_path}/*.tar")
        assert refused == [] and len(lines) == 3
        for name, text in theirs.items():
            assert (tmp_path / f"{name}.old{again}").read_text() == text
            assert any(
                line.startswith("warning: ") and f"it is now {tmp_path}/{name}.old{again}" in line for line in lines
            )
            (tmp_path / name).write_text(text)
    index_shards(f"{tmp_path}/*.tar")
    assert index_shards(f"{tmp_path}/*.tar")[0] == [f"{tmp_path}: indexed 2 samples in 1 shards"], (
        "our own are replaced"
    )


def test_samples_that_cannot_be_used_are_said(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "x0.tar")) as writer:
        writer.write({"__key__": "a", "jpg": encoded(0)})
        writer.write({"__key__": "b", "jpg": b"<html>404"})
    with webdataset.TarWriter(str(tmp_path / "x1.tar")) as writer:
        writer.write({"__key__": "c", "json": b"{}", "svg": b"<svg>"})
        writer.write({"__key__": "d", "json": b"{}"})
    lines, refused = index_shards(str(tmp_path))
    assert refused == [] and lines == [
        f"warning: {tmp_path}/x0.tar: 1 of its 2 samples cannot be used, as key 'b': .jpg: not decodable: a web page",
        f"warning: {tmp_path}/x1.tar: none of its 2 samples can be used, as key 'c': no image, recording or token ids "
        f"among its members: json, svg",
        f"{tmp_path}: indexed 4 samples in 2 shards",
    ]


def test_keys_in_two_shards_are_refused(tmp_path):
    foreign(tmp_path / "x0.tar", ["a", "b"])
    foreign(tmp_path / "x1.tar", ["c", "b"])
    foreign(tmp_path / "x2.tar", ["d"])
    foreign(tmp_path / "y-0.tar", ["b"])  # of another series: never read together
    lines, refused = index_shards(str(tmp_path))
    assert [line.split(":")[0] for line in refused] == [str(tmp_path / "x0.tar"), str(tmp_path / "x1.tar")]
    assert all("1 of its keys are in other shards too, as 'b' in" in line for line in refused)
    assert lines == [f"{tmp_path}: indexed 2 samples in 2 shards"]


def test_all_that_cannot_be_indexed_is_named_and_the_rest_indexed(tmp_path):
    for number in range(30):
        foreign(tmp_path / f"x{number:02d}.tar", [f"{number}a", f"{number}b"])
        if number % 5:
            os.truncate(tmp_path / f"x{number:02d}.tar", 512 * (number % 5))
    done = command("index", f"shards={tmp_path}")
    errors = done.stderr.splitlines()
    assert done.returncode == 1 and done.stdout == f"{tmp_path}: indexed 12 samples in 6 shards\n"
    assert len(errors) == 21 and errors[-1] == "error: ... and 4 shards more"
    assert all(f"x{n:02d}.tar: truncated" in e for n, e in zip([1, 2, 3, 4, 6], errors[:5], strict=True))
    assert load_index(f"{tmp_path}/x*[05].tar").samples == 12


def test_the_command_refuses_a_truncated_tar_in_one_line(tmp_path):
    (tmp_path / "x.tar").write_bytes(sample_blocks("a", {"jpg": b"x" * 5000}) + END)
    assert command("index", f"shards={tmp_path}").returncode == 0
    with (tmp_path / "x.tar").open("r+b") as file:
        file.truncate(4096)
    done = command("index", f"shards={tmp_path}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "x.tar: truncated" in done.stderr and done.stderr.count("\n") == 1
