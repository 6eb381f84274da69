"""Saving beside the training, room, retention, damage, and the choice of the newest good checkpoint.

Saving and loading real engines is in tests/integration.
"""

import errno
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from configs.compose import compose_pretrain
from configs.schema_running import CheckpointConfig
from pretrain.checkpoints import manifest, snapshot
from pretrain.checkpoints.manifest import damage, remove_leftovers
from pretrain.checkpoints.reading import RunState
from pretrain.checkpoints.saving import Checkpoints
from pretrain.engine.layout import Fragment, GroupState
from tests.pretrain.checkpoints.test_manifest import make


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


def test_the_newest_good_checkpoint_is_taken_and_the_damaged_one_named(tmp_path, caplog):
    old, new = make(tmp_path, 10), make(tmp_path, 20)
    checkpoints = checkpoints_of(tmp_path)
    assert checkpoints.newest_good() == new
    data = bytearray((new / "model.pt").read_bytes())
    data[123] ^= 1
    (new / "model.pt").write_bytes(data)
    assert checkpoints.newest_good() == old
    assert str(new) in caplog.text and "model.pt has another checksum" in caplog.text


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


def test_a_replacement_that_was_killed_half_way_gives_the_old_one_back(tmp_path):
    folder = make(tmp_path, 10)
    folder.rename(folder.with_name("replaced_step_00000010"))
    (tmp_path / "checkpoints/staging_step_00000012").mkdir()
    (tmp_path / "checkpoints/removed_step_00000005").mkdir()
    remove_leftovers(tmp_path / "checkpoints")
    assert names(tmp_path) == ["step_00000010"] and damage(folder) == []
    shutil.copytree(folder, folder.with_name("replaced_step_00000010"))
    remove_leftovers(tmp_path / "checkpoints")
    assert names(tmp_path) == ["step_00000010"]


def test_damaged_checkpoints_do_not_take_the_place_of_good_ones(tmp_path):
    for step in (10, 11, 15, 20):
        make(tmp_path, step)
    for step in (15, 20):  # the run resumed at 10 and has just saved 11
        (tmp_path / f"checkpoints/step_000000{step}/model.pt").write_bytes(b"damaged")
    checkpoints = checkpoints_of(tmp_path)
    checkpoints._prune(checkpoints.folder / "step_00000011")
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["step_00000010", "step_00000011"]


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew_by_itself(tmp_path):
    assert checkpoints_of(tmp_path).newest_good() is None
    (make(tmp_path, 10) / "model.pt").unlink()
    with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged \(step_00000010\): move them away"):
        checkpoints_of(tmp_path).newest_good()
