"""Shards built for a store: what is there, in which order it came, what is refused, and what a kill leaves."""

import json
import shutil
from pathlib import Path

import fsspec
import pytest

from configs.schema_commands import BuildConfig
from data_shards.api import open_shards
from data_shards.making.build import build
from data_shards.making.earlier import left_out_path
from data_shards.sending.send import send_shards
from data_shards.shards.index_file import fetch_folder_index
from data_shards.shards.storage import DataConfig as Defaults
from data_shards.shards.storage import Storage, Unreachable, storage_of
from tests.data_shards.shard_tools import encoded, make_images

URL = "memory://bucket/train"


@pytest.fixture
def store():
    """The files of fsspec's store in memory, by path; empty before and after."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system.store
    system.store.clear()


@pytest.fixture
def sent(monkeypatch):
    """Names of the files that were sent, in their order."""
    names, really = [], Storage.send
    monkeypatch.setattr(
        Storage, "send", lambda self, path, url: (names.append(url.removeprefix(URL + "/")), really(self, path, url))
    )
    return names


def config(folder: Path, **keys) -> BuildConfig:
    options = {"output": URL, "staging": str(folder / "staging"), "workers": 1, "shard_mb": 1}
    return BuildConfig(source="imagefolder", input=str(folder / "images"), **{**options, **keys})


def contents(store) -> dict[str, bytes]:
    return {path.removeprefix("/bucket/train/"): file.getvalue() for path, file in store.items()}


def test_a_store_holds_what_a_folder_would(tmp_path, store, sent):
    make_images(tmp_path / "images")
    lines = build(config(tmp_path))
    build(config(tmp_path, output=str(tmp_path / "here"), staging=""))
    here = {p.name: p.read_bytes() for p in (tmp_path / "here").iterdir() if p.is_file() and p.name[0] != "."}
    assert contents(store) == here
    assert sent[-1] == "index.json" and lines[-1].startswith("sent 2 files (") and lines[-1].endswith(f": {URL}")
    assert sorted(sample.cls for sample in open_shards(URL)) == [0] * 8 + [1] * 8
    sent.clear()
    build(config(tmp_path))
    assert sent == [], "nothing is sent twice"


def test_text_is_sent_with_its_tokenizer(tmp_path, store):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("some words\n" * 50)
    options = {"output": URL, "staging": str(tmp_path / "staging"), "workers": 1, "vocab_size": 300}
    build(BuildConfig(source="textfiles", input=str(tmp_path / "in"), **options))
    assert {"tokenizer/vocab.json", "tokenizer/merges.txt"} <= contents(store).keys()


def test_what_a_killed_call_has_sent_is_not_sent_again(tmp_path, store, sent, monkeypatch):
    make_images(tmp_path / "images", 200)
    build(config(tmp_path, output=str(tmp_path / "staging"), staging=""))
    monkeypatch.setattr("data_shards.sending.send._SENDERS", 1)
    really = Storage.send

    def failing(self, path, url):
        if len(sent) == 2:
            raise KeyboardInterrupt
        really(self, path, url)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Storage, "send", failing)
        build(config(tmp_path))
    first = list(sent)
    assert len(first) == 2 and "index.json" not in contents(store)
    build(config(tmp_path))
    assert not set(first) & set(sent[2:]) and sent[-1] == "index.json"


def test_a_changed_shard_is_not_promised_while_it_is_sent(tmp_path, store, monkeypatch):
    images = make_images(tmp_path / "images")
    build(config(tmp_path))
    (images / "cat" / "new.jpg").write_bytes(encoded(99))
    promised, really = [], Storage.send

    def watching(self, path, url):
        promised.append("index.json" in contents(store))
        really(self, path, url)

    monkeypatch.setattr(Storage, "send", watching)
    build(config(tmp_path))
    assert promised and not any(promised)
    assert fetch_folder_index(URL, storage_of(Defaults())).shards[0].nsamples == 17


def test_another_name_leaves_the_index_there(tmp_path, store, monkeypatch):
    make_images(tmp_path / "images")
    build(config(tmp_path))
    monkeypatch.setattr(Storage, "remove", lambda self, url: pytest.fail(f"{url} was removed"))
    build(config(tmp_path, name="val"))
    assert [entry.url for entry in fetch_folder_index(URL, storage_of(Defaults())).shards] == [
        "train-000000.tar", "val-000000.tar"
    ]  # fmt: skip


def test_shards_from_elsewhere_are_replaced_only_when_asked(tmp_path, store):
    make_images(tmp_path / "images")
    build(config(tmp_path))
    before = contents(store)
    make_images(tmp_path / "other" / "images", 3)
    with pytest.raises(ValueError, match=r"sent from elsewhere, as train-000000\.tar.*overwrite=true"):
        build(config(tmp_path / "other"))
    assert contents(store) == before
    build(config(tmp_path / "other", overwrite=True))
    assert len(list(open_shards(URL))) == 6


def test_a_lost_file_is_sent_again(tmp_path, store, sent):
    make_images(tmp_path / "images")
    build(config(tmp_path))
    del store["/bucket/train/train-000000.tar"]
    sent.clear()
    build(config(tmp_path))
    assert "train-000000.tar" in sent and len(list(open_shards(URL))) == 16


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"staging": ""}, "is sent when it is built: give a folder for it, staging=DIR"),
        ({"output": "https://host/train"}, "https://host/train cannot be written"),
        ({"output": "nostore://bucket/train"}, "nostore:// is not known"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_the_work(keys, told, tmp_path):
    make_images(tmp_path / "images")
    with pytest.raises(ValueError, match=told):
        build(config(tmp_path, **keys))
    assert not (tmp_path / "staging").exists()


def test_a_store_that_goes_away_is_an_outage(tmp_path, store, monkeypatch):
    make_images(tmp_path / "images")
    monkeypatch.setattr("data_shards.shards.storage._FIRST_WAIT_S", 0.0001)

    def away(*arguments):
        raise ConnectionError("no answer")

    with monkeypatch.context() as patch, pytest.raises(Unreachable, match="the same command goes on"):
        patch.setattr(fsspec.filesystem("memory"), "put_file", away)
        build(config(tmp_path))
    assert json.loads(left_out_path(tmp_path / "staging", "train").with_name("build.json").read_text())
    assert build(config(tmp_path))[-1].startswith("sent 2 files")


def test_a_folder_that_others_built_is_sent(tmp_path, store):
    make_images(tmp_path / "images")
    build(config(tmp_path, output=str(tmp_path / "here"), staging=""))
    shutil.rmtree(tmp_path / "here" / ".build")
    send_shards(tmp_path / "here", URL)
    with (tmp_path / "here/.build/sent.jsonl").open("a") as record:
        record.write('{"url": "memo')  # a kill
    assert send_shards(tmp_path / "here", URL)[0].startswith("sent 0 files")


def test_a_folder_of_a_script_is_sent(tmp_path, store):
    make_images(tmp_path / "images")
    build(config(tmp_path, output=str(tmp_path / "here"), staging=""))
    (line,) = send_shards(tmp_path / "here", URL)
    assert line.startswith("sent 2 files") and len(list(open_shards(URL))) == 16
