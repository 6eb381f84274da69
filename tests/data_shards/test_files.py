"""Files are replaced whole, and folders locked."""

import errno
import hashlib
import multiprocessing
import os
import time

import pytest

from data_shards.files import PARTIAL, atomic_write, file_sha256, locked, replace_text, set_aside


def test_a_file_is_replaced_whole(tmp_path, monkeypatch):
    replace_text(tmp_path / "latest", "old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        replace_text(tmp_path / "latest", "new")
    assert (tmp_path / "latest").read_text() == "old"


def test_an_error_while_writing_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "shard.tar") as file:
        file.write(b"half of it")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named_by_the_file_that_did_not_fit(tmp_path):
    with pytest.raises(OSError, match="No space left on device: '.*/file'"), atomic_write(tmp_path / "file"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OSError, match="Input/output error$"), atomic_write(tmp_path / "file"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert not list(tmp_path.iterdir())


def test_the_name_is_there_once_all_of_it_is(tmp_path):
    with atomic_write(tmp_path / "shard.tar") as file:
        file.write(b"all of it")
        assert not (tmp_path / "shard.tar").exists()
    assert (tmp_path / "shard.tar").read_bytes() == b"all of it" and len(list(tmp_path.iterdir())) == 1


def test_links_are_not_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    for name in ("latest", f"latest{PARTIAL}", ".index.lock"):
        (tmp_path / name).symlink_to("mine")
    replace_text(tmp_path / "latest", "new")
    with locked(tmp_path):
        pass
    assert ((tmp_path / "mine").read_text(), (tmp_path / "latest").read_text()) == ("mine", "new")


def test_a_file_of_somebody_named_tmp_stays(tmp_path):
    (tmp_path / "config.yaml.tmp").write_text("mine")
    replace_text(tmp_path / "config.yaml", "ours")
    assert (tmp_path / "config.yaml.tmp").read_text() == "mine"


def test_a_file_set_aside_replaces_no_other(tmp_path):
    for text in ("first", "second"):
        (tmp_path / "a").write_text(text)
        set_aside(tmp_path / "a")
    assert set_aside(tmp_path / "a") is None
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.old": "first", "a.old2": "second"}


def hold(folder, order) -> None:
    with locked(folder):
        order.put("other in")
        time.sleep(0.3)
        order.put("other out")


def test_a_second_writer_waits_for_the_first(tmp_path):
    context = multiprocessing.get_context("fork")
    order = context.SimpleQueue()
    other = context.Process(target=hold, args=(tmp_path / "new", order))
    other.start()
    said = [order.get()]
    with locked(tmp_path / "new"):
        order.put("this one")
    said += [order.get(), order.get()]
    other.join()
    assert said == ["other in", "other out", "this one"]


def test_a_checksum_of_more_than_one_piece(tmp_path):
    (tmp_path / "big").write_bytes(data := bytes(range(256)) * 20_000)
    assert file_sha256(tmp_path / "big") == hashlib.sha256(data).hexdigest()
