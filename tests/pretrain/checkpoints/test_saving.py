"""Saving beside the training, room, retention, damage, and the choice of the newest good checkpoint.

Saving and loading real engines is in tests/integration.
"""

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from configs.compose import compose_pretrain
from configs.schema_running import CheckpointConfig
from pretrain.checkpoints import folders, manifest, saving, snapshot
from pretrain.checkpoints.manifest import Unreadable, damage
from pretrain.checkpoints.reading import RunState
from pretrain.checkpoints.saving import Checkpoints
from pretrain.engine.layout import Fragment, GroupState
from tests.pretrain.checkpoints.test_manifest import RANK, make


class Partitions:
    """One flat partition of two parameters, with a teacher."""

    sharded = True
    labels = ("0",)
    shapes = {"a": torch.Size([2, 3]), "b": torch.Size([2])}
    fragments = [Fragment("a", 0, 0, 0, 6), Fragment("b", 0, 6, 0, 2)]
    loss_scale: dict = {}

    def __init__(self) -> None:
        self.flat = torch.arange(8.0)
        self.masters = [self.flat]

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"0/master": self.flat, "0/teacher": self.flat + 100}

    def group_states(self) -> list[GroupState]:
        return [GroupState(3, ("teacher",))]


def engine(steps: int):
    """What `save` asks of an engine."""
    config = compose_pretrain(["demo=false"])
    return SimpleNamespace(partitions=Partitions(), config=config, steps=steps, skipped=1, samples={"vision": 64})


def state() -> RunState:
    return RunState({"consumed_steps": 7}, (1, 2), {"steps": {}})


def checkpoints_of(run: Path, **options) -> Checkpoints:
    return Checkpoints(run, CheckpointConfig(**options))


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_failed_write_is_reported_the_checkpoint_before_stays_and_the_next_one_works(
    tmp_path, monkeypatch, caplog, asynchronous
):
    checkpoints = checkpoints_of(tmp_path, asynchronous=asynchronous)
    checkpoints.save(engine(10), state(), wait=True)
    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "write_partitions", full_disk)
        checkpoints.save(engine(20), state())
        if asynchronous:
            checkpoints._write.wait()
            checkpoints.settle(1)
    assert "step 20" in checkpoints.failure and "rank 0: [Errno 28] No space left on device" in checkpoints.failure
    assert "step_00000010 stays the newest, and training goes on" in caplog.text
    assert names(tmp_path) == ["latest", "step_00000010"] and checkpoints.newest.name == "step_00000010"
    checkpoints.save(engine(30), state(), wait=True)
    assert checkpoints.failure is None and checkpoints.newest.name == "step_00000030"


@pytest.mark.parametrize("victim", ["state.json", "manifest.json", "latest"])
def test_a_disk_that_fills_at_the_small_files_leaves_a_good_checkpoint(tmp_path, monkeypatch, victim):
    checkpoints = checkpoints_of(tmp_path)
    checkpoints.save(engine(10), state(), wait=True)
    write = manifest.replace_text
    fills = lambda path, text: full_disk() if path.name == victim else write(path, text)  # noqa: E731
    monkeypatch.setattr(manifest, "replace_text", fills)
    monkeypatch.setattr(folders, "replace_text", fills)
    checkpoints.save(engine(20), state(), wait=True)
    assert "No space left" in checkpoints.failure
    monkeypatch.undo()
    assert damage(checkpoints_of(tmp_path).newest_good()) == []


def test_a_checkpoint_that_does_not_fit_is_refused_with_the_bytes_before_it_starts(tmp_path, monkeypatch, caplog):
    checkpoints = checkpoints_of(tmp_path)
    checkpoints.save(engine(10), state(), wait=True)
    free = 2**20 + 63  # it needs 64 bytes of tensors
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    checkpoints.save(engine(20), state())
    assert f"{2**20 + 64:,} bytes needed, {free:,} free" in caplog.text
    assert names(tmp_path) == ["latest", "step_00000010"]
    with pytest.raises(OSError, match=f"{2**20 + 128:,} bytes needed.*choose a run.dir on another file system"):
        checkpoints.prepare(engine(20))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20 + 128))
    checkpoints.prepare(engine(20))


def test_a_disk_that_does_not_answer_at_all_leaves_the_run_going(tmp_path, monkeypatch, caplog):
    checkpoints = checkpoints_of(tmp_path)
    checkpoints.save(engine(10), state(), wait=True)

    def fails(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "WAITS_S", ())
        patch.setattr(shutil, "disk_usage", fails)
        checkpoints.save(engine(20), state())
        assert "no room for a checkpoint" in checkpoints.failure and "Input/output error" in checkpoints.failure
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**30))
        for module, name in ((os, "scandir"), (os, "listdir"), (folders, "make_staging"), (saving, "make_staging")):
            patch.setattr(module, name, fails)
        checkpoints.save(engine(30), state())
        assert "step 30 could not be written" in checkpoints.failure
    checkpoints.save(engine(40), state(), wait=True)
    assert checkpoints.failure is None and checkpoints.newest.name == "step_00000040"


def test_the_newest_good_checkpoint_is_taken_and_the_damaged_one_named(tmp_path, caplog):
    old, new = make(tmp_path, 10), make(tmp_path, 20)
    checkpoints = checkpoints_of(tmp_path)
    assert checkpoints.newest_good() == new
    data = bytearray((new / RANK).read_bytes())
    data[123] ^= 1
    (new / RANK).write_bytes(data)
    assert checkpoints.newest_good() == old
    assert str(new) in caplog.text and f"{RANK} has another checksum" in caplog.text


def test_a_killed_save_leaves_nothing_that_could_be_loaded(tmp_path):
    make(tmp_path, 10)
    staging = tmp_path / "checkpoints" / "staging_step_00000020"
    shutil.copytree(make(tmp_path, 20), staging)
    shutil.rmtree(tmp_path / "checkpoints" / "step_00000020")
    assert checkpoints_of(tmp_path).newest_good().name == "step_00000010"
    assert not staging.exists()


def test_only_the_newest_are_kept(tmp_path):
    for step in (10, 20, 30):
        make(tmp_path, step)
    checkpoints = checkpoints_of(tmp_path)
    checkpoints._prune(checkpoints.folder / "step_00000030")
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["step_00000020", "step_00000030"]


def test_every_mth_is_kept_for_good(tmp_path):
    checkpoints = checkpoints_of(tmp_path, keep=1, keep_every=20)
    for step in (10, 20, 30, 40, 50):
        checkpoints.save(engine(step), state(), wait=True)
    assert names(tmp_path) == ["latest", "step_00000020", "step_00000040", "step_00000050"]


def test_damaged_checkpoints_do_not_take_the_place_of_good_ones(tmp_path):
    """Those that were read as damaged when the run resumed at 10."""
    for step in (10, 15, 20):
        make(tmp_path, step)
    for step in (15, 20):
        (tmp_path / f"checkpoints/step_000000{step}/{RANK}").write_bytes(b"damaged")
    checkpoints = checkpoints_of(tmp_path)
    assert checkpoints.newest_good().name == "step_00000010"
    checkpoints.save(engine(11), state(), wait=True)
    assert names(tmp_path) == ["latest", *(f"step_000000{step}" for step in (10, 11, 15, 20))], "still there to mend"
    checkpoints.save(engine(30), state(), wait=True)
    checkpoints.save(engine(40), state(), wait=True)
    assert names(tmp_path) == ["latest", "step_00000030", "step_00000040"]


def test_a_damaged_checkpoint_that_was_mended_meanwhile_is_kept(tmp_path):
    """As when its file was still being copied back at the start, or its folder had the name of another step."""
    for step in (10, 20, 25):
        make(tmp_path, step)
    folder = tmp_path / "checkpoints"
    (folder / "step_00000020" / RANK).rename(tmp_path / "away")
    (folder / "step_00000025").rename(folder / "step_00000026")
    checkpoints = checkpoints_of(tmp_path)
    assert checkpoints.newest_good().name == "step_00000010"
    (tmp_path / "away").rename(folder / "step_00000020" / RANK)
    checkpoints.save(engine(30), state(), wait=True)
    checkpoints.save(engine(40), state(), wait=True)
    assert names(tmp_path)[1:] == ["step_00000020", "step_00000030", "step_00000040"], "found sound when it was old"
    checkpoints.save(engine(50), state(), wait=True)
    assert names(tmp_path)[1:] == ["step_00000040", "step_00000050"]


@pytest.fixture
def failing(monkeypatch):
    """Failing disk: `failing(folder)` lets no rank's file of it be read."""
    monkeypatch.setattr(manifest, "WAITS_S", (0.0, 0.0))
    read = manifest.file_sha256

    def fails(folder: Path) -> None:
        def sha256(path: Path) -> str:
            if path == folder / RANK:
                raise OSError(errno.EIO, "Input/output error")
            return read(path)

        monkeypatch.setattr(manifest, "file_sha256", sha256)

    return fails


def test_a_checkpoint_that_cannot_be_read_ends_the_start_and_is_never_removed(tmp_path, failing, monkeypatch, caplog):
    old, new = make(tmp_path, 10), make(tmp_path, 20)
    failing(new)
    checkpoints = checkpoints_of(tmp_path)
    with pytest.raises(Unreadable, match=f"{new}/{RANK} cannot be read .Input/output error"):
        checkpoints.newest_good()
    monkeypatch.undo()
    assert "damaged" not in caplog.text
    checkpoints.save(engine(11), state(), wait=True)  # as a rollback that was cut short would go on
    assert damage(old) == damage(new) == []
    assert checkpoints_of(tmp_path).newest_good() == new


def test_a_checkpoint_of_this_step_that_cannot_be_read_is_not_replaced(tmp_path, failing):
    folder = make(tmp_path, 10)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    failing(folder)
    checkpoints = checkpoints_of(tmp_path)
    checkpoints.save(engine(10), state(), wait=True)
    assert "step 10 could not be written" in checkpoints.failure and "cannot be read" in checkpoints.failure
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_old_one_that_cannot_be_removed_is_named_once_and_the_run_goes_on(tmp_path, monkeypatch, caplog):
    def refuse(folder: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    monkeypatch.setattr(saving, "remove", refuse)
    checkpoints = checkpoints_of(tmp_path, keep=1)
    for step in (10, 20, 30):
        checkpoints.save(engine(step), state(), wait=True)
        assert checkpoints.failure is None and checkpoints.newest.name == f"step_000000{step}"
    said = [record.message for record in caplog.records]
    assert len(said) == 2 and all("cannot be removed ([Errno 13] Permission denied" in line for line in said)
    monkeypatch.undo()
    checkpoints.save(engine(40), state(), wait=True)
    assert names(tmp_path) == ["latest", "step_00000040"]


def test_only_what_a_save_has_written_is_removed(tmp_path, caplog):
    """Folders with the names of checkpoints, but without a manifest, and files that somebody has put into one."""
    checkpoints = checkpoints_of(tmp_path, keep=1)
    checkpoints.save(engine(10), state(), wait=True)
    notes, mine = checkpoints.folder / "step_00000010/notes.txt", checkpoints.folder / "step_00000005"
    notes.write_text("the best so far")
    mine.mkdir()
    (mine / RANK).write_bytes(b"a copy of mine")
    for step in (20, 30):
        checkpoints.save(engine(step), state(), wait=True)
    assert (mine / RANK).read_bytes() == b"a copy of mine" and f"{mine} cannot be removed" in caplog.text
    assert names(tmp_path) == ["latest", "removed_step_00000010", "step_00000005", "step_00000030"]
    kept = checkpoints.folder / "removed_step_00000010"
    assert [path.name for path in kept.iterdir()] == ["notes.txt"]
    checkpoints_of(tmp_path)
    assert (kept / "notes.txt").exists()


def test_checkpoints_that_somebody_puts_back_while_the_run_goes_on_stay(tmp_path):
    checkpoints = checkpoints_of(tmp_path, keep=1)
    checkpoints.save(engine(10), state(), wait=True)
    later = make(tmp_path, 90)
    checkpoints.save(engine(20), state(), wait=True)
    assert damage(later) == [] and names(tmp_path) == ["latest", "step_00000020", "step_00000090"]


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew_by_itself(tmp_path):
    assert checkpoints_of(tmp_path).newest_good() is None
    (make(tmp_path, 10) / RANK).unlink()
    with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged \(step_00000010\): move them away"):
        checkpoints_of(tmp_path).newest_good()
