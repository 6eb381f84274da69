import gzip
import json
import os
import re

import pyarrow
import pytest
import webdataset
from pyarrow import parquet

from configs.schema_commands import BuildConfig
from data_shards.making.build import build
from data_shards.shards.index import load_index
from data_shards.shards.index_file import read_folder_index
from data_shards.shards.sidecar import read_rows
from data_shards.sources.documents import Document
from data_shards.sources.texts import pack_documents, split_documents
from data_shards.text.tokenizer import load_tokenizer
from data_shards.text.tokens import read_tokens
from tests.data_shards.shard_tools import tree

TEXT = "a glossary of short words that a tokenizer may join into longer types because they come again"


WORDS = TEXT.split(" ")


def article(i, words=40):
    return " ".join(WORDS[(i * 7 + j * (1 + i % 5)) % len(WORDS)] for j in range(words)) + f" {i}."


def build_text(source, path, output, **keys):
    keys = {"workers": 1, "vocab_size": 310, "max_tokens": 32, **keys}
    return build(BuildConfig(source=source, input=str(path), output=str(output), **keys))


def sequences_of(output, name="train"):
    dataset = webdataset.WebDataset(sorted(map(str, output.glob(f"{name}-*.tar"))), shardshuffle=False)
    return [(sample["__key__"], read_tokens(sample["npy"]).tolist(), sample.get("cls")) for sample in dataset]


def texts_of(output):
    """Every document, put together from its sequences."""
    tokenizer = load_tokenizer(output / "tokenizer")
    found = {}
    for key, ids, _ in sequences_of(output):
        assert (ids[0], ids[-1]) == (0, 2) and len(ids) <= 32
        found.setdefault(re.sub(r"/([0-9-]+)_\d+$", r"/\1", key), []).extend(ids[1:-1])
    return [tokenizer.decode(ids) for ids in found.values()]


def write_source(folder, source, documents):
    """The documents in the form of `source`."""
    folder.mkdir()
    match source:
        case "files":
            for i, text in enumerate(documents):
                (folder / f"{i:03d}.txt").write_text(text)
        case "lines":
            (folder / "all.txt").write_text("\n".join(documents))
        case "paragraphs":
            halves = [text.replace(" ", "\n", 3) for text in documents]
            (folder / "all.txt").write_text("\n\n".join(halves) + "\n \n\n")
        case "jsonl" | "jsonl.gz":
            data = "".join(json.dumps({"text": text, "id": 1}) + "\n" for text in documents).encode()
            (folder / f"all.{source}").write_bytes(gzip.compress(data) if source == "jsonl.gz" else data)
        case "parquet":
            parquet.write_table(pyarrow.table({"text": documents}), folder / "all.parquet", row_group_size=7)
    return folder


@pytest.mark.parametrize("source", ["files", "lines", "paragraphs", "jsonl", "jsonl.gz", "parquet"])
def test_every_document_comes_back_from_its_tokens(tmp_path, source):
    documents = [article(i) for i in range(20)]
    folder = write_source(tmp_path / "in", source, documents)
    kind = {"jsonl.gz": "jsonl"}.get(source, source if source in ("jsonl", "parquet") else "textfiles")
    how = {"documents": source} if kind == "textfiles" else {}
    lines = build_text(kind, folder, tmp_path / "out", **how)
    assert [" ".join(text.split()) for text in texts_of(tmp_path / "out")] == documents
    entry = load_tokenizer(tmp_path / "out" / "tokenizer").entry
    assert load_index(str(tmp_path / "out")).tokenizer == entry == read_folder_index(tmp_path / "out").tokenizer
    tokens = sum(len(ids) for _, ids, _ in sequences_of(tmp_path / "out"))
    assert read_rows(tmp_path / "out/train-000000.tar")["length"].sum() == tokens
    assert "310 types, trained" in lines[0] and f"{tokens:,} tokens" in lines[-1]


def document(key):
    return Document(key, "")


def test_documents_are_cut_evenly_and_never_mixed():
    encoded = [(document("a"), list(range(10))), (document("b"), [1, 2]), (document("c"), list(range(21)))]
    found = list(split_documents(encoded, 10))
    assert [(key, len(ids)) for key, _, ids in found] == [("a", 10), ("b", 2), ("c_0", 7), ("c_1", 7), ("c_2", 7)]


def test_joined_documents_fill_every_sequence_but_the_last():
    encoded = [(document("a"), [10] * 4), (document("b"), [20] * 9), (document("c"), [30] * 2)]
    found = [ids for _, _, ids in pack_documents(encoded, 6)]
    assert found == [[10, 10, 10, 10, 2, 20], [20] * 6, [20, 20, 2, 30, 30]]
    keys = [key for key, *_ in pack_documents(encoded, 6)]
    assert len(set(keys)) == 3


def test_packed_shards_lose_nothing(tmp_path):
    folder = write_source(tmp_path / "in", "jsonl", [article(i) for i in range(30)])
    build_text("jsonl", folder, tmp_path / "out", pack="full")
    sequences = [ids for _, ids, _ in sequences_of(tmp_path / "out")]
    assert {len(ids) for ids in sequences[:-1]} == {32}
    tokenizer = load_tokenizer(tmp_path / "out" / "tokenizer")
    joined_text = tokenizer.decode([i for ids in sequences for i in ids[1:-1]])
    assert joined_text == "</s>".join(article(i) for i in range(30))


def test_classes_of_jsonl(tmp_path):
    rows = [{"text": article(i), "topic": ["sport", "art", 7][i % 3]} for i in range(12)] + [{"text": "x"}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = build_text("jsonl", tmp_path / "x.jsonl", tmp_path / "out", label_field="topic", max_tokens=512)
    assert load_index(str(tmp_path / "out")).classes == ("7", "art", "sport")
    assert [label for *_, label in sequences_of(tmp_path / "out")] == [b"2", b"1", b"0"] * 4
    assert any("left out 1 (no class in 'topic')" in line for line in lines)


@pytest.mark.parametrize(
    ("source", "keys", "told"),
    [
        ("parquet", {"text_field": "body"}, r"no column 'body'; set text_field=COLUMN.*\(it has text\)"),
        ("parquet", {"label_field": "topic"}, r"no column 'topic'; set label_field=COLUMN.*\(it has text\)"),
        ("jsonl", {"text_field": "body"}, "no sample is left .*left out 3 .no text in 'body'"),
        ("jsonl", {"pack": "full", "label_field": "text"}, "pack=full joins documents"),
        ("jsonl", {"tokenizer": "/nowhere/tokenizer"}, "/nowhere/tokenizer has neither vocab.json"),
    ],
)
def test_settings_that_cannot_be(tmp_path, source, keys, told):
    folder = write_source(tmp_path / "in", source, [article(i) for i in range(3)])
    with pytest.raises(ValueError, match=told):
        build_text(source, folder, tmp_path / "out", **keys)
    assert not (tmp_path / "out" / "index.json").exists()


def test_a_folder_that_cannot_be_opened_is_left_out(tmp_path, monkeypatch):
    folder = write_source(tmp_path / "in", "files", [article(0)])
    write_source(folder / "secret", "files", [article(1)])
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    told = build_text("textfiles", folder, tmp_path / "out")
    assert f"left out 1 (unreadable: Permission denied): {folder}/secret/" in told


def test_one_folder_has_one_tokenizer(tmp_path):
    folder = write_source(tmp_path / "in", "jsonl", [article(i) for i in range(20)])
    build_text("jsonl", folder, tmp_path / "out")
    lines = build_text("jsonl", folder, tmp_path / "out", name="val", vocab_size=300)
    assert lines[0] == f"tokenizer: 310 types, from {tmp_path}/out/tokenizer"
    other = tmp_path / "other"
    build_text("jsonl", folder, other, vocab_size=300, tokenizer="new")
    with pytest.raises(ValueError, match=r"holds shards of another tokenizer, as train-000000\.tar"):
        build_text("jsonl", folder, tmp_path / "out", name="val", tokenizer=str(other / "tokenizer"))
    with pytest.raises(ValueError, match=r"different tokenizers: .*310 types.*300 types"):
        load_index(f"{{{tmp_path}/out,{other}}}")


def test_a_second_split_asks_for_the_tokenizer_of_the_first(tmp_path):
    folder = write_source(tmp_path / "in", "jsonl", [article(i) for i in range(20)])
    with pytest.raises(
        ValueError, match="^name=val is a second split: add tokenizer=FOLDER.* or tokenizer=new to train"
    ):
        build_text("jsonl", folder, tmp_path / "first", name="val")
    build_text("jsonl", folder, tmp_path / "first")
    theirs = tmp_path / "first" / "tokenizer"
    for name in ("train", "val"):
        with pytest.raises(
            ValueError, match=f"^{theirs} is the tokenizer of other shards: add tokenizer={theirs} to use"
        ):
            build_text("jsonl", folder, tmp_path / "second", name=name)
    assert not (tmp_path / "second").exists(), "nothing is trained or written"
    build_text("jsonl", folder, tmp_path / "second", name="val", tokenizer=str(theirs))
    assert len(load_index(f"{tmp_path}/{{first,second}}").paths) == 2, "both are of one tokenizer"
    build_text("jsonl", folder, tmp_path / "second", name="val", tokenizer=str(theirs), overwrite=True)
    build_text("jsonl", folder, tmp_path / "third", vocab_size=300, tokenizer="new")
    assert load_tokenizer(tmp_path / "third" / "tokenizer").vocab_size == 300


def test_same_bytes_for_any_number_of_processes_and_after_a_kill(tmp_path):
    folder = write_source(tmp_path / "in", "jsonl", [article(i, 400) for i in range(600)])
    for name, workers in (("one", 1), ("two", 2)):
        build_text("jsonl", folder, tmp_path / name, workers=workers, shard_mb=1, max_tokens=512, tokenizer="new")
    straight = tree(tmp_path / "one")
    assert straight == tree(tmp_path / "two") and "train-000001.tar" in straight
    (tmp_path / "two/train-000001.tar").unlink()  # as if killed before it was written
    untouched = (tmp_path / "two/train-000000.tar").stat().st_mtime_ns
    build_text("jsonl", folder, tmp_path / "two", workers=1, shard_mb=1, max_tokens=512, tokenizer="new")
    assert tree(tmp_path / "two") == straight
    assert (tmp_path / "two/train-000000.tar").stat().st_mtime_ns == untouched
