"""Lines and paragraphs of plain and compressed files, and their places."""

import bz2
import gzip
import json
import lzma
import re

import pytest

from data_shards.sources.blocks import zstd
from data_shards.sources.documents import Lines
from data_shards.sources.units import LeftOut
from tests.data_shards.sources.test_texts import article, build_text, texts_of

COMPRESS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd.compress}


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("source", ["jsonl", "lines", "files"])
def test_every_compression_is_read(tmp_path, kind, source):
    """Two streams one after the other, as parallel compressors write."""
    texts = [article(0), article(1)]
    parts = [json.dumps({"text": text}) if source == "jsonl" else text for text in texts]
    data = b"".join(COMPRESS[kind](f"{part}\n".encode()) for part in parts)
    path = tmp_path / f"in.{'jsonl' if source == 'jsonl' else 'txt'}.{kind}"
    path.write_bytes(data)
    how = {} if source == "jsonl" else {"documents": source}
    build_text("jsonl" if source == "jsonl" else "textfiles", path, tmp_path / "out", **how)
    assert texts_of(tmp_path / "out") == (["\n".join(texts)] if source == "files" else texts)


def test_a_window_of_two_gigabytes_is_read(tmp_path):
    options = {zstd.CompressionParameter.window_log: 31, zstd.CompressionParameter.enable_long_distance_matching: 1}
    packed = zstd.ZstdCompressor(options=options)
    data = b"".join(packed.compress(json.dumps({"text": article(i)}).encode() + b"\n") for i in range(9))
    (tmp_path / "x.jsonl.zst").write_bytes(data + packed.flush())
    build_text("jsonl", tmp_path / "x.jsonl.zst", tmp_path / "out")
    assert texts_of(tmp_path / "out") == [article(i) for i in range(9)]


def test_an_archive_that_is_not_read_is_named(tmp_path):
    (tmp_path / "x.jsonl.lz4").write_bytes(b"\4\x22\x4d\x18")
    told = re.escape(f"input={tmp_path}/x.jsonl.lz4 is in a form that is not read (.gz .zst .bz2 .xz are); unpack it")
    with pytest.raises(ValueError, match=told):
        build_text("jsonl", tmp_path / "x.jsonl.lz4", tmp_path / "out")


def test_a_line_is_named_by_its_number_in_the_file(tmp_path):
    """Also in parts that begin in the middle."""
    lines = [b"good", b"\xff", b"", b"good \xff", b"x" * 50, b"\xff"]
    (tmp_path / "x.txt").write_bytes(b"\n".join(lines))
    for step in range(1, 30):
        left_out = LeftOut()
        for start in range(0, (tmp_path / "x.txt").stat().st_size, step):
            list(Lines("x", str(tmp_path / "x.txt"), start, start + step, 0, "lines").documents(left_out))
        told = [name.partition(" (")[0] for name in left_out.reasons["not UTF-8"]]
        assert told == [f"{tmp_path}/x.txt, line {number}" for number in (2, 4, 6)]
