"""Documents of files, lines, JSON and tables: each once, and what cannot be read is left out by its place."""

import builtins
import json
from pathlib import Path

import pytest
from pyarrow import parquet

from data_shards.sources import documents as documents_module
from data_shards.sources.documents import Fields, Lines
from data_shards.sources.units import LeftOut
from tests.data_shards.shard_tools import command
from tests.data_shards.sources.test_texts import article, build_text, texts_of, write_source


@pytest.mark.parametrize("kind", ["lines", "paragraphs", "json"])
def test_parts_of_a_file_hold_each_document_once(tmp_path, kind):
    texts = [article(i, 1 + i % 9) for i in range(60)]
    encoded = [json.dumps({"text": text}) if kind == "json" else text for text in texts]
    path = tmp_path / "x.txt"
    path.write_text(("\n\n" if kind == "paragraphs" else "\n").join(encoded))
    size = path.stat().st_size
    for step in (1, 7, 100, 1000, size):
        found = []
        for start in range(0, size, step):
            fields = Fields("text", "") if kind == "json" else None
            part = Lines("x", str(path), start, min(start + step, size), 0, kind, fields)
            found += [document.text for document in part.documents(LeftOut())]
        assert found == texts


def test_what_cannot_be_read_is_left_out_by_place(tmp_path):
    good = json.dumps({"text": article(0)}).encode()
    bad = [b"{", b"[]", b'{"text": 3}', b'{"text": "  "}', b'{"text": "\xff"}']
    (tmp_path / "x.jsonl").write_bytes(b"\n".join([good, *bad, good]))
    told = "\n".join(build_text("jsonl", tmp_path / "x.jsonl", tmp_path / "out"))
    for reason in ("1 (not JSON)", "2 (no text in 'text')", "1 (empty)", "1 (not UTF-8)"):
        assert f"left out {reason}: {tmp_path}/x.jsonl at byte " in told
    assert len(texts_of(tmp_path / "out")) == 2


def test_empty_and_undecodable_files(tmp_path):
    folder = write_source(tmp_path / "in", "files", [article(0), "", " \n ", article(1)])
    (folder / "latin.txt").write_bytes("naïve".encode("latin-1"))
    (folder / "marked.txt").write_bytes(b"\xef\xbb\xbfwith a byte order mark")
    told = "\n".join(build_text("textfiles", folder, tmp_path / "out"))
    assert "left out 1 (0 bytes)" in told and "left out 1 (empty)" in told
    assert f"left out 1 (not UTF-8): {folder}/latin.txt" in told
    assert "with a byte order mark" in texts_of(tmp_path / "out")


@pytest.mark.parametrize("source", ["files", "lines", "jsonl", "jsonl.gz", "parquet"])
def test_unreadable_files_are_left_out_by_name(tmp_path, source, monkeypatch):
    folder = write_source(tmp_path / "in", source, [article(i) for i in range(20)])
    bad = folder / ("b" + min(folder.iterdir()).name)
    bad.write_bytes(min(folder.iterdir()).read_bytes())

    def refusing(function):
        def call(path, *arguments, **keys):
            if str(path) == str(bad):
                raise PermissionError(13, "Permission denied", str(path))
            return function(path, *arguments, **keys)

        return call

    for place, name in (
        (builtins, "open"),
        (Path, "read_bytes"),
        (documents_module, "_open"),
        (parquet, "read_schema"),
    ):
        monkeypatch.setattr(place, name, refusing(getattr(place, name)))
    how = {"documents": source} if source in ("files", "lines") else {}
    kind = {"files": "textfiles", "lines": "textfiles", "jsonl.gz": "jsonl"}.get(source, source)
    lines = build_text(kind, folder, tmp_path / "out", **how)
    assert f"left out 1 (unreadable: Permission denied): {bad}" in lines
    assert len(texts_of(tmp_path / "out")) == 20


def test_a_truncated_download_is_named(tmp_path):
    folder = write_source(tmp_path / "in", "jsonl.gz", [article(i) for i in range(300)])
    path = folder / "all.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-500])
    done = command("build", "source=jsonl", f"input={folder}", f"output={tmp_path}/out", "vocab_size=300")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {path}: ")
