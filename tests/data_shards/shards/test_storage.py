import socket
import time

import pytest

from configs.schema_training import DataConfig
from data_shards.shards import storage as storage_module
from data_shards.shards.storage import (
    CutOff,
    Unreachable,
    folder_of,
    is_remote,
    join_location,
    local_path,
    name_of,
    storage_of,
)
from tests.data_shards.http_store import FAULTS, serve


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(storage_module, "_FIRST_WAIT_S", 0.01)
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "a.tar").write_bytes(bytes(range(256)) * 8)
    with serve(folder) as server:
        yield server


def reading(**data):
    return storage_of(DataConfig(**{"timeout_s": 0.5, **data}))


@pytest.mark.parametrize(
    ("location", "remote", "folder", "name"),
    [
        ("/data/a b/x{1}.tar", False, "/data/a b", "x{1}.tar"),
        ("s3://bucket/some folder/x#1?.tar", True, "s3://bucket/some folder", "x#1?.tar"),
        ("https://host/some%20folder/x%231.tar", True, "https://host/some%20folder", "x#1.tar"),
        ("C:/x.tar", False, "C:", "x.tar"),
    ],
)
def test_parts_of_a_location(location, remote, folder, name):
    assert (is_remote(location), folder_of(location), name_of(location)) == (remote, folder, name)
    assert join_location(folder, name) == location


def test_local_paths(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert str(local_path("~/a.tar")) == "/home/me/a.tar"
    assert str(local_path("file:///data/a%20b.tar")) == "/data/a b.tar" and not is_remote("file:///data/a.tar")


def test_ranges_and_whole_files(store):
    assert reading().fetch(f"{store.url}/a.tar", 3, 7) == bytes([3, 4, 5, 6])
    assert len(reading().fetch(f"{store.url}/a.tar")) == 2048


def test_every_fault_is_asked_for_again(store):
    store.every = 2
    for _ in range(2 * len(FAULTS)):
        assert reading().fetch(f"{store.url}/a.tar", 100, 1100) == (bytes(range(256)) * 8)[100:1100]
    assert store.failed >= len(FAULTS)


def test_waits_grow_and_end(store, monkeypatch):
    waits = []
    monkeypatch.setattr(storage_module.time, "sleep", waits.append)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/a.tar"
        with pytest.raises(Unreachable, match=r"a\.tar: .*Connect.* \(tried 5 times\)"):
            reading(retries=4).fetch(url, 0, 1)
    assert len(waits) == 4 and waits[3] > waits[0]


def test_a_server_that_hangs_is_given_up(store):
    store.every, store.delay_s = 1, 5.0
    storage_module_faults = FAULTS.index("delay")
    store.numbers = iter([storage_module_faults] * 9)
    started = time.monotonic()
    with pytest.raises(Unreachable, match=r"a\.tar: .*Timeout.*tried 2 times"):
        reading(retries=1, timeout_s=0.2).fetch(f"{store.url}/a.tar", 0, 9)
    assert time.monotonic() - started < 4


def test_a_file_that_ends_early_is_not_asked_for_for_ever(store):
    with pytest.raises(CutOff, match=r"48 of 100 bytes from byte 2000 on \(tried 3 times\)"):
        reading().fetch(f"{store.url}/a.tar", 2000, 2100)
    with pytest.raises(CutOff, match=r"416.*tried 1 times"):
        reading().fetch(f"{store.url}/a.tar", 3000, 3100)


def test_what_cannot_be_mended_is_said_at_once(store):
    with pytest.raises(FileNotFoundError):
        reading().fetch(f"{store.url}/b.tar", 0, 1)
    store.ranges = False
    with pytest.raises(ValueError, match="the server ignores ranges"):
        reading().fetch(f"{store.url}/a.tar", 0, 1)
    with pytest.raises(ValueError, match="nope:// is not known"):
        reading().fetch("nope://a.tar")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(storage_module.fsspec, "filesystem", lambda _: (_ for _ in ()).throw(ImportError("no gcsfs")))
    storage_module._file_system.cache_clear()
    with pytest.raises(ValueError, match="gs:// cannot be read here .*: pip install gcsfs"):
        reading().fetch("gs://bucket/a.tar")
    storage_module._file_system.cache_clear()
