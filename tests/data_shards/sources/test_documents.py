"""Documents of files, lines, JSON and tables: each once, and what cannot be read is left out by its place."""

import builtins
import gzip
import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from data_shards.shards.index import load_index
from data_shards.sources import blocks as blocks_module
from data_shards.sources import documents as documents_module
from data_shards.sources.documents import Fields, Lines, Whole
from data_shards.sources.units import LeftOut
from data_shards.text.tokenizer import train_tokenizer
from tests.data_shards.sources.test_blocks import COMPRESS
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
    for reason, line in (("1 (not JSON)", 2), ("2 (no text in 'text')", 3), ("1 (empty)", 5), ("1 (not UTF-8)", 6)):
        assert f"left out {reason}: {tmp_path}/x.jsonl, line {line}" in told
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
        (documents_module, "open_file"),
        (parquet, "read_schema"),
    ):
        monkeypatch.setattr(place, name, refusing(getattr(place, name)))
    how = {"documents": source} if source in ("files", "lines") else {}
    kind = {"files": "textfiles", "lines": "textfiles", "jsonl.gz": "jsonl"}.get(source, source)
    lines = build_text(kind, folder, tmp_path / "out", **how)
    assert f"left out 1 (unreadable: Permission denied): {bad}" in lines
    assert len(texts_of(tmp_path / "out")) == 20


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst", "parquet"])
def test_a_damaged_file_is_named_and_used_up_to_there(tmp_path, kind):
    folder = write_source(tmp_path / "in", "jsonl" if kind != "parquet" else kind, [article(i) for i in range(3000)])
    (path,) = folder.iterdir()
    if kind != "parquet":
        path = folder / f"all.jsonl.{kind}"
        path.write_bytes(COMPRESS[kind]((folder / "all.jsonl").read_bytes()))
        (folder / "all.jsonl").write_text(json.dumps({"text": "whole"}))
        path.write_bytes(path.read_bytes()[:-20])
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
        path.write_bytes(data)
    told = "\n".join(build_text("jsonl" if kind != "parquet" else kind, folder, tmp_path / "out", max_tokens=512))
    assert "damaged or incomplete; used up to there" in told and str(path) in told
    assert kind == "bz2" or load_index(str(tmp_path / "out")).samples > 1000  # bz2 has blocks of 900 kB


def test_files_in_which_nothing_can_be_read_are_named(tmp_path):
    for name in ("a.jsonl.zst", "b.jsonl.gz", "c.parquet"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        source = "parquet" if name.endswith("parquet") else "jsonl"
        with pytest.raises(
            ValueError, match=rf"(no sample is left|no documents).* \(damaged or incomplete.*{name}"
        ) as raised:
            build_text(source, tmp_path / name, tmp_path / "out")
        assert "\n" not in str(raised.value)


DEEP = b"[" * 100_000


@pytest.mark.parametrize("tokenizer", ["trained", "given"])
def test_a_bad_document_does_not_end_the_build(tmp_path, tokenizer):
    good = json.dumps({"text": article(0), "topic": "a"}).encode()
    bad = [
        rb'{"text": "half \ud83d", "topic": "a"}',
        b'{"text": ' + DEEP,
        b'{"text": "x", "topic": "\\udc00"}',
        b"9" * 9999,
    ]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join([good, *bad, good]))
    train_tokenizer([article(0)], 300).save(tmp_path / "given")
    keys = {"tokenizer": str(tmp_path / "given")} if tokenizer == "given" else {}
    told = "\n".join(build_text("jsonl", tmp_path / "x.jsonl", tmp_path / "out", label_field="topic", **keys))
    assert f"left out 2 (half of a surrogate pair): {tmp_path}/x.jsonl, line 2 (at character 5), " in told
    assert f"left out 1 (JSON that is nested too deeply): {tmp_path}/x.jsonl, line 3" in told
    assert f"left out 1 (not JSON): {tmp_path}/x.jsonl, line 5" in told
    listed = (tmp_path / "out/.build/train/left_out.tsv").read_text().splitlines()
    assert len(listed) == 4 and len(texts_of(tmp_path / "out")) == 2


@pytest.mark.parametrize("kind", ["string", "large_string", "binary", "large_binary", "string_view", "dictionary"])
def test_texts_of_parquet_in_every_type(tmp_path, kind):
    texts = [*(article(i).encode() for i in range(5)), b"not \xc3\x28 UTF-8", None]
    column = pyarrow.array(texts, pyarrow.large_binary() if "large" in kind else pyarrow.binary())
    match kind:
        case "string" | "large_string":
            column = column.view(getattr(pyarrow, kind)())  # pyarrow checks no bytes in a view
        case "string_view":
            column = pyarrow.array(
                [text.decode() if text else None for text in [*texts[:5], None]], pyarrow.string_view()
            )
        case "dictionary":
            column = column.dictionary_encode()
    parquet.write_table(pyarrow.table({"nested": [{"text": 1}] * len(column), "text": column}), tmp_path / "x.parquet")
    told = "\n".join(build_text("parquet", tmp_path / "x.parquet", tmp_path / "out"))
    assert texts_of(tmp_path / "out") == [article(i) for i in range(5)]
    assert kind == "string_view" or f"left out 1 (not UTF-8): {tmp_path}/x.parquet, row group 0, row 5 (" in told
    assert "left out 1 (no text in 'text')" in told


def test_a_parquet_column_without_text_is_named_with_its_type(tmp_path):
    parquet.write_table(pyarrow.table({"text": [1, 2]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"column 'text' holds int64, not text; set text_field=COLUMN\): .*x\.parquet"):
        build_text("parquet", tmp_path / "x.parquet", tmp_path / "out")


def test_a_class_of_parquet_that_python_cannot_hold_is_left_out(tmp_path):
    times = pyarrow.array([2**50, 1, 2], pyarrow.timestamp("ms"))
    parquet.write_table(pyarrow.table({"text": ["a", "b", "c"], "when": times}), tmp_path / "x.parquet")
    told = "\n".join(build_text("parquet", tmp_path / "x.parquet", tmp_path / "out", label_field="when"))
    assert f"left out 1 (a value that cannot be read): {tmp_path}/x.parquet, row group 0, row 0 (" in told


def test_classes_that_almost_are_numbers_are_sorted_by_the_alphabet(tmp_path):
    rows = [{"text": "x", "topic": topic} for topic in ("--5", "4", "9" * 5000)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    build_text("jsonl", tmp_path / "x.jsonl", tmp_path / "out", label_field="topic")
    assert load_index(str(tmp_path / "out")).classes == ("--5", "4", "9" * 5000)


def test_documents_that_are_too_long_are_left_out_and_the_rest_is_read(tmp_path, monkeypatch):
    """With a limit of 100 bytes in place of 256 MiB."""
    monkeypatch.setattr(blocks_module, "MAX_DOCUMENT", 100)
    monkeypatch.setattr(documents_module, "MAX_DOCUMENT", 100)
    for kind, text in (("lines", "a\n{}\nb"), ("paragraphs", "a\n\n{}\n\nb"), ("paragraphs", "a\n\nc\nc\n{}\nc\n\nb")):
        for long in ("x" * 101, "x" * 1000, "\n".join(["y" * 30] * 9)):
            if kind == "lines" and "\n" in long:
                continue
            (tmp_path / "x.txt").write_text(text.format(long))
            left_out = LeftOut()
            part = Lines("x", str(tmp_path / "x.txt"), 0, 10**6, 0, kind)
            assert [document.text for document in part.documents(left_out)] == ["a", "b"]
            assert list(left_out.reasons.values()) == [[f"{tmp_path}/x.txt, line {2 if kind == 'lines' else 3}"]]
    for name, data in (("x.txt", b"x" * 101), ("x.txt.gz", gzip.compress(b"x" * 101))):
        (tmp_path / name).write_bytes(data)
        left_out = LeftOut()
        assert not list(Whole("x", str(tmp_path / name), len(data), 0).documents(left_out))
        assert "documents=lines" in next(iter(left_out.reasons))


def test_a_parquet_column_may_be_text_and_class(tmp_path):
    parquet.write_table(pyarrow.table({"text": ["b", "a"]}), tmp_path / "x.parquet")
    build_text("parquet", tmp_path / "x.parquet", tmp_path / "out", label_field="text")
    assert load_index(str(tmp_path / "out")).classes == ("a", "b")


def test_classes_of_parquet_that_are_false_or_zero_are_classes(tmp_path):
    for name, values in (("number", [0, 1]), ("truth", [False, True])):
        parquet.write_table(pyarrow.table({"text": ["b", "a"], name: values}), tmp_path / f"{name}.parquet")
        build_text("parquet", tmp_path / f"{name}.parquet", tmp_path / name, label_field=name, tokenizer="new")
        assert load_index(str(tmp_path / name)).classes == tuple(map(str, values))
