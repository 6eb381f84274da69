"""WebDatasets of other tools: sharded again with labels and texts; what is broken is counted and listed."""

import gzip
import json
import os
import pickle
import re

import numpy as np
import pytest

from data_shards.making.validate import validate_shards
from data_shards.shards.index import load_index
from tests.data_shards.making.test_build import keys_of
from tests.data_shards.shard_tools import clip, command, encoded, tree
from tests.data_shards.sources.tables.test_parquet_media import build_table
from tests.data_shards.sources.tars.test_members import tar
from tests.data_shards.sources.test_texts import article


def build_tars(path, output, **keys):
    return build_table(path, output, source="webdataset", **keys)


def listed(output):
    return (output / ".build/train/left_out.tsv").read_text().splitlines()


def other_tool(folder, count=30):
    """Tars with gzip members, mixed-case extensions, captions and classes, as another tool may write them."""
    folder.mkdir(parents=True, exist_ok=True)
    members = []
    for i in range(count):
        name = f"./part.1/{i:05d}"
        members += [
            (f"{name}.JPG.GZ" if i % 2 else f"{name}.Jpeg", gzip.compress(encoded(i)) if i % 2 else encoded(i)),
            (f"{name}.CLS", f"{i % 3}\n".encode()),
            (f"{name}.Txt.gz", gzip.compress(f"caption {i}".encode())),
            (f"{name}.pyd", pickle.dumps({"never": "loaded"})),
        ]
    (folder / "a.tar").write_bytes(tar(members[: 2 * count]))
    (folder / "b.tar.gz").write_bytes(gzip.compress(tar(members[2 * count :])))
    return folder


def test_gzip_members_and_mixed_case_are_read_with_labels_and_texts(tmp_path):
    told = build_tars(other_tool(tmp_path / "in"), tmp_path / "out")
    assert told == [f"train: 30 samples in 1 shards, class numbers as they were: {tmp_path}/out"]
    found = keys_of(tmp_path / "out")
    assert found["a/part.1/00003"].keys() >= {"jpg", "cls", "txt"} and "b/part.1/00029" in found
    contents = {(s.get("jpg") or s["jpeg"], s["cls"], s["txt"]) for s in found.values()}
    assert contents == {(encoded(i), b"%d" % (i % 3), b"caption %d" % i) for i in range(30)}
    assert validate_shards(str(tmp_path / "out"), deep=True, workers=1) == ([], 1)


def test_members_of_any_name_are_mapped_and_class_names_are_numbered(tmp_path):
    rows = [(f"{i}.photo.png", encoded(i, "PNG")) for i in range(4)]
    rows += [(f"{i}.info.json", json.dumps({"kind": "ba"[i % 2], "said": f"c{i}"}).encode()) for i in range(4)]
    rows += [(f"{i}.thumb.png", b"small") for i in range(4)]
    (tmp_path / "a.tar").write_bytes(tar(sorted(rows)))
    keys = {"data_field": "photo.png", "label_field": "info.json.kind", "text_field": "info.json.said"}
    build_tars(tmp_path / "a.tar", tmp_path / "out", **keys)
    found = keys_of(tmp_path / "out")
    assert {k: (s["png"], s["cls"], s["txt"]) for k, s in found.items()} == {
        f"a/{i}": (encoded(i, "PNG"), b"10"[i % 2 :][:1], f"c{i}".encode()) for i in range(4)
    }
    assert load_index(str(tmp_path / "out")).classes == ("a", "b")


def test_a_large_tar_becomes_several_shards_and_again_the_same_ones(tmp_path):
    noise = np.random.default_rng(0)
    rows = [(f"{i:04d}.jpg", encoded(i % 9) + noise.bytes(6000)) for i in range(400)]
    (tmp_path / "a.tar").write_bytes(tar(rows))
    build_tars(tmp_path / "a.tar", tmp_path / "out", shard_mb=1)
    shards = sorted((tmp_path / "out").glob("*.tar"))
    assert len(shards) > 2 and len(keys_of(tmp_path / "out")) == 400
    assert all(shard.stat().st_size < 1.2e6 for shard in shards)
    build_tars(f"pipe:cat {tmp_path}/a.tar", tmp_path / "piped", shard_mb=1)
    assert len(keys_of(tmp_path / "piped")) == 400 and len([*(tmp_path / "piped").glob("*.tar")]) == 1
    before = tree(tmp_path / "out")
    os.remove(shards[1])
    build_tars(tmp_path / "a.tar", tmp_path / "out", shard_mb=1)
    assert tree(tmp_path / "out") == before


def test_what_is_broken_is_left_out_by_key_and_the_others_stay(tmp_path):
    rows = [
        ("0.jpg", encoded(0)), ("0.cls", b"1"), ("1.jpg", b"no image"), ("2.cls", b"2"), ("3.jpg", encoded(3)),
        ("3.cls", b"cat"), ("4.jpg.gz", b"no gzip"), ("5.jpg", encoded(5)), ("5.cls", b"\x80\x04N."),
        ("6.jpg", encoded(6)), ("0.jpg", encoded(7)), ("x" * 99 + "y" * 99 + ".jpg", encoded(8)),
    ]  # fmt: skip
    (tmp_path / "a.tar").write_bytes(tar(rows))
    whole = tar([("a.jpg", encoded(1)), ("b.jpg", encoded(2))])
    (tmp_path / "b.tar").write_bytes(whole[: 512 + len(encoded(1)) // 512 * 512 + 512 + 700])
    build_tars(f"{tmp_path}/a.tar::{tmp_path}/b.tar", tmp_path / "out")
    assert set(keys_of(tmp_path / "out")) == {"a/0", "a/6", "a/0_2", "b/a"}
    place = f"{tmp_path}/a.tar, key"
    lines = listed(tmp_path / "out")
    assert {line.partition("\t")[0] for line in lines} == {
        "damaged or no image", "no image among its members; data_field=EXTENSION names it",
        "a class that is no number, as that of the first sample is", "damaged gzip", "no text in 'cls'",
        "kept, but a key that is there twice; numbered", "a name that is too long for a tar header",
        "damaged or incomplete; used up to there",
    }  # fmt: skip
    assert f"a class that is no number, as that of the first sample is\t{place} 3 (cat)" in lines
    assert f"no image among its members; data_field=EXTENSION names it\t{place} 2 (.cls)" in lines


def test_a_store_that_fails_is_told_and_read_again_by_the_same_command(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar([("0.jpg", encoded(0))]))
    url = f"{tmp_path}/a.tar::pipe:cat {tmp_path}/later.tar"
    told = "\n".join(build_tars(url, tmp_path / "out"))
    assert "unreadable: the command that reads it ended with 1" in told and "1 samples" in told
    (tmp_path / "later.tar").write_bytes(tar([("1.jpg", encoded(1))]))
    assert "2 samples" in build_tars(url, tmp_path / "out")[-1]


def test_recordings_and_texts(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar([("0.flac", clip(0, 4000)), ("0.txt", b"said"), ("1.wav", b"none")]))
    told = build_tars(tmp_path / "a.tar", tmp_path / "speech")
    assert "hours" in told[-1] and keys_of(tmp_path / "speech")["a/0"]["txt"] == b"said"
    rows = [(f"{i}.json", json.dumps({"text": article(i), "topic": "ab"[i % 2]}).encode()) for i in range(9)]
    (tmp_path / "b.tar").write_bytes(tar([*rows, ("9.json", b"{}"), ("a.json", b'{"text": "x"}')]))
    keys = {"modality": "text", "vocab_size": 300, "label_field": "json.topic"}
    told = build_tars(tmp_path / "b.tar", tmp_path / "text", **keys)
    assert "2 classes" in told[-1] and "tokens" in told[-1]
    assert f"no class in .json.topic\t{tmp_path}/b.tar, key a" in listed(tmp_path / "text")
    assert len([line for line in listed(tmp_path / "text")]) == 2


@pytest.mark.parametrize(
    "members, keys, said",
    [
        ([("a.mp4", b"1")], {}, "a first sample of .mp4 does not tell what the samples are; set modality=vision"),
        ([("a.mp4", b"1")], {"modality": "vision"}, "no sample is left of"),
        ([("a.jpg", b"1"), ("a.cls", b"\x80")], {}, "the class in .cls of the first sample: no text in 'cls'"),
        ([], {}, "hold no sample; the first tars are empty"),
    ],
)
def test_tars_that_hold_nothing_of_use_are_one_line(tmp_path, members, keys, said):
    (tmp_path / "a.tar").write_bytes(tar(members))
    with pytest.raises(ValueError, match=re.escape(said)) as raised:
        build_tars(tmp_path / "a.tar", tmp_path / "out", **keys)
    assert "\n" not in str(raised.value)


def test_credentials_of_urls_are_not_kept(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar([("0.jpg", encoded(0))]))
    bad, good = "file://user:secret@host/none.tar?key=secret", f"file://{tmp_path}/a.tar?key=secret"
    done = command("build", "source=webdataset", f"input={bad}", f"output={tmp_path}/out")
    assert done.returncode == 2 and "secret" not in done.stderr and len(done.stderr.splitlines()) == 1
    build_tars(good, tmp_path / "out")
    assert all(b"secret" not in file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file())
