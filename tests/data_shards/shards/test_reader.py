import errno
import os
import pickle

import pytest

from data_shards.shards import reader as reader_module
from data_shards.shards.bad_sample import BadSample
from data_shards.shards.index import load_index
from data_shards.shards.reader import Reader
from data_shards.shards.sidecar import read_rows
from data_shards.shards.storage import Unreachable
from tests.data_shards.shard_tools import flip_byte, make_shards


def test_samples_are_those_that_were_written(tmp_path):
    index = load_index(make_shards(tmp_path, (3, 0, 4)))
    reader = Reader(index)
    assert [reader.read(i).key for i in range(7)] == [f"{i:06d}" for i in range(7)]
    assert set(reader.read(6).members) == {"jpg", "cls"}
    copy = pickle.loads(pickle.dumps(reader))  # as a worker gets it
    assert copy.read(5) == reader.read(5)


@pytest.mark.parametrize("where", [10, 600, 1100, 1700])
def test_a_flipped_byte_anywhere_is_a_bad_sample(tmp_path, where):
    index = load_index(make_shards(tmp_path, (4,)))
    rows = read_rows(tmp_path / "train-000000.tar")
    flip_byte(tmp_path / "train-000000.tar", int(rows["offset"][2]) + where)
    reader = Reader(index)
    with pytest.raises(BadSample, match="checksum"):
        reader.read(2)
    shard, name, *_ = reader.report(2, BadSample("checksum", "differs"))
    assert shard.endswith("train-000000.tar") and "row 2" in name
    assert reader.read(1) and reader.read(3)


def test_a_truncated_shard_is_bad_samples_and_a_vanished_one_an_outage(tmp_path):
    index = load_index(make_shards(tmp_path, (4, 2)))
    shard = tmp_path / "train-000000.tar"
    with shard.open("r+b") as file:
        file.truncate(int(read_rows(shard)["offset"][2]) + 512)
    (tmp_path / "train-000001.tar").unlink()
    reader = Reader(index)
    assert reader.read(1)
    for sample in (2, 3):
        with pytest.raises(BadSample):
            reader.read(sample)
        assert reader.report(sample, BadSample("checksum", "x")).sample
    with pytest.raises(Unreachable, match=r"train-000001\.tar: No such file or directory"):
        reader.read(4)
    (tmp_path / "train-000001.idx.npy").unlink()
    with pytest.raises(Unreachable, match=r"the sidecar of .*train-000001\.tar: .*No such file or directory"):
        Reader(index).read(4)


class FailingReads:
    """os.pread that raises `error` so many times."""

    def __init__(self, error, times):
        self.error, self.left, self.calls, self.pread = error, times, 0, os.pread

    def __call__(self, *arguments):
        self.calls += 1
        self.left -= 1
        if self.left >= 0:
            raise OSError(self.error, os.strerror(self.error))
        return self.pread(*arguments)


@pytest.fixture
def no_waits(monkeypatch):
    waits = []
    monkeypatch.setattr(reader_module.time, "sleep", waits.append)
    return waits


@pytest.mark.parametrize("error", [errno.ESTALE, errno.EIO])
def test_a_passing_fault_of_the_file_system_is_no_bad_sample(tmp_path, monkeypatch, no_waits, error):
    reader = Reader(load_index(make_shards(tmp_path, (4,))))
    reader.read(0)
    opened = []
    monkeypatch.setattr(os, "pread", FailingReads(error, 4))
    monkeypatch.setattr(os, "open", lambda *a, really=os.open: opened.append(a) or really(*a))
    assert reader.read(2).key == "000002"
    assert len(opened) == len(no_waits) == 3, "each time it is opened anew"


def test_a_lasting_fault_is_an_outage_and_a_report_does_not_wait(tmp_path, monkeypatch, no_waits):
    reader = Reader(load_index(make_shards(tmp_path, (4,))))
    monkeypatch.setattr(os, "pread", failing := FailingReads(errno.EIO, 100))
    with pytest.raises(Unreachable, match=rf"train-000000\.tar: {os.strerror(errno.EIO)}"):
        reader.read(2)
    assert reader.report(2, BadSample("checksum", "x")).sample == "row 2"
    assert (failing.calls, len(no_waits)) == (5, 3)


def test_damage_and_missing_files_are_not_read_for_ever(tmp_path, monkeypatch, no_waits):
    index = load_index(make_shards(tmp_path, (4, 2)))
    flip_byte(tmp_path / "train-000000.tar", int(read_rows(tmp_path / "train-000000.tar")["offset"][2]) + 600)
    (tmp_path / "train-000001.tar").unlink()
    monkeypatch.setattr(os, "pread", failing := FailingReads(errno.EIO, 0))
    for sample, error in ((2, BadSample), (4, Unreachable)):
        with pytest.raises(error):
            Reader(index).read(sample)
    assert (failing.calls, no_waits) == (1, [])


def test_only_so_many_shards_are_open(tmp_path, monkeypatch):
    monkeypatch.setattr(reader_module, "_OPEN_FILES", 2)
    index = load_index(make_shards(tmp_path, (1,) * 5))
    reader = Reader(index)
    for sample in (0, 1, 2, 3, 4, 0, 4):
        assert reader.read(sample).key == f"{sample:06d}"
    assert len(reader._open) == 2
    reader.close()


def test_members_are_never_unpickled(tmp_path):
    from data_shards.making.writer import save_folder_index, write_shard
    from data_shards.shards.index_file import FolderIndex

    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    entry = write_shard(tmp_path / "a-000000.tar", [("a", {"pyd": pickle.dumps(Trap()), "jpg": b"x"})])
    save_folder_index(tmp_path, FolderIndex((entry,)))
    assert Reader(load_index(str(tmp_path))).read(0).members["pyd"] == pickle.dumps(Trap())
