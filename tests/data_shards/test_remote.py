"""Across shards and loading. Shards in a store: exact epochs over HTTP that fails, S3, damaged and shared caches."""

import json
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from configs.schema_commands import BuildConfig
from data_shards.loading.modality_loader import ModalityLoader
from data_shards.loading.probe_samples import labelled_samples
from data_shards.making.build import build
from data_shards.shards import storage as storage_module
from data_shards.shards.bad_sample import BadSample
from data_shards.shards.cache import own_folder
from data_shards.shards.index import load_index
from data_shards.shards.reader import Reader
from data_shards.shards.sidecar import read_rows
from data_shards.shards.storage import Unreachable
from data_shards.text.stored_tokenizer import tokenizer_of
from data_shards.text.tokenizer import train_tokenizer
from tests.data_shards.http_store import serve
from tests.data_shards.shard_tools import (
    command,
    counted_steps,
    encoded,
    flip_byte,
    make_images,
    make_shards,
    small_config,
)
from tests.data_shards.shards.test_cache import pieces, size_of
from tests.own import own

COUNTS = (30, 0, 17, 23)
CHUNK = 16_384  # bytes: some five samples


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(storage_module, "_FIRST_WAIT_S", 0.01)
    make_shards(tmp_path / "store", COUNTS)
    with serve(tmp_path / "store") as server:
        yield server


@pytest.fixture
def config(tmp_path, store):
    """A configuration of the served shards, with a cache of its own; keys of `data` can be given."""

    def made(**data):
        ours = {"cache_dir": str(tmp_path / "cache"), "timeout_s": 0.5, "chunk_bytes": CHUNK}
        return small_config(data.pop("shards", store.url), **{**ours, **data})

    return made


def ids(config, steps, world=1):
    """Samples of each step."""
    loaders = [ModalityLoader(own(config), rank, world) for rank in range(world)]
    found = [
        [int(i) for batches in step for batch in batches for i in batch.sample_ids]
        for step in counted_steps(loaders, steps)
    ]
    for loader in loaders:
        loader.close()
    return found, loaders[0].bad.replaced


def shard_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.tar"))


@pytest.mark.parametrize(("workers", "read_ahead_mb", "world"), [(0, 0, 1), (2, 0, 1), (2, 64, 1), (1, 64, 2)])
def test_an_epoch_over_a_store_that_fails_is_complete_and_read_once(
    config, store, tmp_path, workers, read_ahead_mb, world
):
    store.every = 10
    local = small_config(str(tmp_path / "store"), chunk_bytes=CHUNK)
    steps = ModalityLoader(own(local), 0, 1).steps_per_epoch
    found, bad = ids(config(workers=workers, read_ahead_mb=read_ahead_mb), steps, world)
    assert (found, bad) == (ids(local, steps)[0], 0)
    assert store.failed > 0
    # What was cut off on the way is sent again, so the bytes are those of whole answers.
    assert store.bytes_of(".tar") <= 1.05 * shard_bytes(tmp_path / "store")


def test_a_second_epoch_and_a_second_job_fetch_nothing(config, store):
    ids(config(), 16)
    sent = len(store.sent)
    ids(config(), 16)
    assert [name for name, _ in store.sent[sent:]] == ["index.json"]


def test_a_cache_too_small_for_the_order_is_told_and_kept_to(config, store, tmp_path, caplog):
    limit = 3 * CHUNK
    with caplog.at_level(logging.WARNING):
        found, bad = ids(config(cache_gb=limit / 2**30), 8)
    assert "raise data.cache_gb" in caplog.text and bad == 0
    assert len({sample for step in found for sample in step}) == 64
    assert size_of(tmp_path / "cache") <= limit


def test_a_damaged_sidecar_in_the_cache_is_fetched_again(config, store, tmp_path):
    index = load_index(config().data)
    expected = index.rows(0).copy()
    for path in pieces(tmp_path / "cache"):
        flip_byte(path, path.stat().st_size - 1)
    assert np.array_equal(load_index(config().data).rows(0), expected)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("status", "told"),
    [
        (500, r"500.*tried 2 times"), (503, r"503.*tried 2 times"), (401, "401.*check the credentials"),
        (403, "403.*check the credentials"), (404, "not found in the store"), (301, "a redirect that leads nowhere"),
        (200, "a page of HTML in place of the file"),
    ],
)  # fmt: skip
def test_an_outage_ends_the_run_and_replaces_nothing(config, store, status, told, workers):
    data = replace(config().data, retries=1, timeout_s=2, read_ahead_mb=0, workers=workers)
    loader = ModalityLoader(own(replace(config(), data=data)), 0, 1)
    steps = counted_steps([loader], 10)
    next(steps)
    store.status = status
    shutil.rmtree(data.cache_dir, ignore_errors=True)  # the worker may write into it
    with pytest.raises(
        Unreachable, match=rf"^data\.shards cannot be read: .*train-00000\d\.(tar|idx).*{told}.*goes on"
    ):
        for _ in range(9):
            next(steps)
    assert loader.bad.replaced == 0
    loader.close()


def test_an_outage_is_none_of_the_users_mistakes_at_the_start_either(config, store):
    data = replace(config().data, retries=1, timeout_s=2)
    store.status = 500
    with pytest.raises(Unreachable, match=r"index\.json: .*500.*the same command goes on once the store answers"):
        load_index(data)
    store.status = 403
    with pytest.raises(ValueError, match="403.*check the credentials"):
        load_index(data)


@pytest.mark.parametrize("damage", ["removed", "a file"])
def test_a_cache_that_is_lost_during_a_run_changes_nothing(config, store, tmp_path, damage, caplog):
    reader, local = Reader(load_index(config().data), 5), Reader(load_index(str(tmp_path / "store")))
    assert reader.read(0) == local.read(0)
    own = own_folder(tmp_path / "cache")
    shutil.rmtree(own)
    if damage == "a file":
        own.touch()
    assert [reader.read(sample) for sample in range(70)] == [local.read(sample) for sample in range(70)]
    assert caplog.text.count("pieces are not kept") == 1


def test_no_piece_outlives_its_removal_in_an_open_file(config, store, tmp_path):
    reader = Reader(load_index(config(cache_gb=3 * CHUNK / 2**30).data), 5)
    for sample in range(70):
        reader.read(sample)
    held = [path for path in Path("/proc/self/fd").iterdir() if str(tmp_path / "cache") in os.path.realpath(path)]
    assert held == []


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_a_damaged_cache_entry_is_fetched_again(config, store, tmp_path, damage):
    index = load_index(config().data)
    assert Reader(index).read(0) and Reader(index).read(40)
    for path in pieces(tmp_path / "cache"):
        if damage == "flipped":
            for offset in range(600, path.stat().st_size, 700):
                flip_byte(path, offset)
        else:
            path.write_bytes(path.read_bytes()[:-1])
    sent = len(store.sent)
    local = Reader(load_index(str(tmp_path / "store")))
    for sample in (0, 1, 40):
        assert Reader(load_index(config().data)).read(sample) == local.read(sample)
    assert any(name.endswith(".tar") for name, _ in store.sent[sent:])
    sent = len(store.sent)
    assert Reader(load_index(config().data)).read(0) and [name for name, _ in store.sent[sent:]] == ["index.json"]


def test_a_store_that_holds_damage_gives_bad_samples(config, store, tmp_path):
    shard = tmp_path / "store" / "train-000000.tar"
    rows = read_rows(shard)
    flip_byte(shard, int(rows["offset"][3]) + 600)
    with shard.open("r+b") as file:
        file.truncate(int(rows["offset"][28]) + 512)
    (tmp_path / "store" / "train-000002.tar").unlink()
    reader = Reader(load_index(config().data), 5)
    kinds = {}
    for sample in (*range(30), *range(47, 70)):
        try:
            reader.read(sample)
        except BadSample as error:
            kinds[sample] = error.kind
            assert "train-00000" in reader.report(sample, error).shard
    assert kinds == {3: "checksum", 28: "unreadable", 29: "unreadable"}
    with pytest.raises(Unreachable, match=r"train-000002\.tar: not found in the store"):
        reader.read(40)


@pytest.mark.parametrize(
    ("missing", "words"),
    [("index.json", "no shards match"), ("train-000000.idx.npy", r"train-000000\.tar has no sidecar")],
)
def test_missing_parts_of_a_data_set_are_named(config, store, tmp_path, missing, words):
    (tmp_path / "store" / missing).unlink()
    with pytest.raises(ValueError, match=words):
        Reader(load_index(config().data)).read(0)


def test_another_sidecar_than_the_promised_is_refused(config, store, tmp_path):
    sidecar = tmp_path / "store" / "train-000000.idx.npy"
    flip_byte(sidecar, sidecar.stat().st_size - 1)
    with pytest.raises(ValueError, match=r"train-000000\.idx\.npy is not the sidecar that index\.json promises"):
        Reader(load_index(config().data)).read(0)


def test_a_server_that_is_not_there_is_named_at_the_start(config):
    data = replace(config().data, shards="http://127.0.0.1:9/data", retries=1)
    with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:9/data/index\.json: .*Connect.*tried 2 times"):
        load_index(data)


NAMES = ["a b.tar", "a#1.tar", "a%2f.tar", "a+é.tar", "a&=;.tar", "a[1].tar"]


def odd_folder(folder: Path) -> None:
    """Shards of one sample each, with odd names."""
    make_shards(folder, (1,) * len(NAMES))
    content = (folder / "index.json").read_text()
    for number, name in enumerate(NAMES):
        for ending in ("tar", "idx.npy"):
            shutil.move(folder / f"train-{number:06d}.{ending}", folder / name.replace("tar", ending))
        content = content.replace(f'"train-{number:06d}.tar"', f'"{name}"')
    changed = json.loads(content)
    del changed["content_sha256"]
    (folder / "index.json").write_text(json.dumps(changed))


def everything(shards, tmp_path) -> set[str]:
    index = load_index(replace(small_config(shards).data, cache_dir=str(tmp_path / "cache"), shards=shards))
    reader = Reader(index)
    return {reader.read(sample).key for sample in range(index.samples)}


def test_odd_names_in_every_kind_of_place(tmp_path):
    folder = tmp_path / "some folder #1 {x}"
    odd_folder(folder)
    keys = {f"{number:06d}" for number in range(len(NAMES))}
    assert (
        everything(f"{folder}/*.tar", tmp_path)
        == everything(f"file://{folder}/*.tar".replace(" ", "%20").replace("#", "%23"), tmp_path)
        == keys
    )
    with serve(folder) as store:
        assert everything(f"{store.url}/*.tar", tmp_path) == keys
        with pytest.raises(ValueError, match=rf"{store.url} holds shards of several names: .*{store.url}/\*"):
            everything(store.url, tmp_path)
        assert everything(f"{store.url}/a%20b.tar", tmp_path) == {"000000"}
        assert everything((f"{store.url}/a%231.tar", str(folder / "a b.tar")), tmp_path) == {"000000", "000001"}


@pytest.fixture(scope="module")
def bucket():
    """A function that puts a folder into a bucket of an S3 server."""
    with pytest.MonkeyPatch.context() as patch:
        server = ThreadedMotoServer(port=0)
        server.start()
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")

        def put(folder: Path, prefix: str) -> str:
            for path in folder.rglob("*"):
                if path.is_file():
                    client.put_object(
                        Bucket="bucket", Key=f"{prefix}/{path.relative_to(folder)}", Body=path.read_bytes()
                    )
            return f"s3://bucket/{prefix}"

        yield put
        server.stop()


def test_images_in_s3_are_built_in_place(bucket, tmp_path):
    images = make_images(tmp_path / "images", 5)
    (images / "cat" / "0 a#1.jpg").write_bytes(encoded(77))
    url = bucket(images, "some folder/pictures")
    for name, source in (("there", url), ("here", str(images))):
        build(BuildConfig(source="imagefolder", input=source, output=str(tmp_path / name), workers=1))
    shard = "train-000000.tar"
    assert (tmp_path / "there" / shard).read_bytes() == (tmp_path / "here" / shard).read_bytes()


def test_shards_are_built_into_s3(bucket, tmp_path):
    make_images(tmp_path / "images", 5)
    options = {"output": "s3://bucket/some folder/built#1", "staging": str(tmp_path / "staging"), "workers": 1}
    for _ in range(2):  # the second call looks at what is there
        build(BuildConfig(source="imagefolder", input=str(tmp_path / "images"), **options))
    assert len(everything(options["output"], tmp_path)) == 10
    with pytest.raises((ValueError, FileNotFoundError), match="nobucket"):
        build(
            BuildConfig(source="imagefolder", input=str(tmp_path / "images"), **options | {"output": "s3://nobucket/a"})
        )


def test_s3_gives_the_same_epoch(bucket, config, store, tmp_path):
    url = bucket(tmp_path / "store", "some folder/train#1")
    found, bad = ids(config(shards=f"{url}/train-{{000000..000003}}.tar", timeout_s=10), 9)
    assert (found, bad) == (ids(small_config(str(tmp_path / "store"), chunk_bytes=CHUNK), 9)[0], 0)
    odd_folder(tmp_path / "odd")
    assert len(everything(f"{bucket(tmp_path / 'odd', 'odd')}/*.tar", tmp_path)) == len(NAMES)
    with pytest.raises(ValueError, match=r"s3://nobucket.*no shards match|no shards match.*s3://nobucket"):
        load_index("s3://nobucket/train")


def test_text_and_probes_from_a_store(tmp_path):
    make_shards(tmp_path / "store", (20,), modality="text")
    tokenizer = train_tokenizer(["some text", "and some more"], 300)
    tokenizer.save(tmp_path / "store" / "tokenizer")
    with serve(tmp_path / "store") as store:
        config = small_config(store.url, modality="text", cache_dir=str(tmp_path / "cache"))
        entry, folder = tokenizer_of(config.data)
        assert (
            entry.vocab_size == 300
            and (folder / "merges.txt").read_bytes() == (tmp_path / "store" / "tokenizer" / "merges.txt").read_bytes()
        )
        batch = labelled_samples(store.url, own(config), 10)
        labels = batch.labels
    assert len(batch) == len(labels) == 10
    assert np.array_equal(batch.sample_ids.numpy(), np.arange(0, 20, 2))


def test_credentials_reach_the_store_and_no_line(store, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    url = store.url.replace("://", "://me:hush@") + "/train-*.tar"
    told = [command(name, f"shards={url}", *keys) for name, *keys in (["info"], ["bench", "workers=1", "seconds=0.01"])]
    assert [done.returncode for done in told] == [0, 0] and "/***@127.0.0.1" in told[0].stdout
    told += [command("info", f"shards={store.url.replace('://', '://hush@')}/none-*.tar")]
    told += [command("validate", f"shards={store.url}/train-000000.tar?sig=hush")]
    assert [done.returncode for done in told[2:]] == [2, 2]
    assert all("hush" not in done.stdout + done.stderr for done in told), told
