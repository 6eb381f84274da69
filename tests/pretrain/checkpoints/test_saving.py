"""Saving beside the training, room, retention, damage, and the choice of the newest good checkpoint.

Saving and loading real engines is in tests/integration.
"""

import errno
import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from configs.compose import compose_pretrain
from configs.schema_running import CheckpointConfig
from data_shards.files import replace_text
from pretrain.checkpoints import manifest, snapshot
from pretrain.checkpoints import saving as checkpoint
from pretrain.checkpoints.agreement import check_agreement
from pretrain.checkpoints.manifest import damage, remove_leftovers, write_json
from pretrain.checkpoints.partition_files import PartitionFiles
from pretrain.checkpoints.reading import RunState, load_weights, read_state
from pretrain.checkpoints.saving import Checkpoints
from pretrain.engine.layout import Fragment, GroupState
from pretrain.engine.zero_partitions import assemble


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


@pytest.fixture
def slow(monkeypatch) -> threading.Event:
    """Files are written only once the event is set."""
    event, write = threading.Event(), snapshot.write_partitions

    def wait_and_write(*arguments):
        assert event.wait(20)
        return write(*arguments)

    monkeypatch.setattr(snapshot, "write_partitions", wait_and_write)
    return event


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_training_goes_on_beside_a_save_and_what_is_written_is_the_step_that_was_saved(tmp_path, slow):
    checkpoints, trained = checkpoints_of(tmp_path), engine(10)
    checkpoints.save(trained, state())
    trained.partitions.flat.add_(1000)  # the steps that follow
    assert not checkpoints.written
    checkpoints.settle(0)
    assert checkpoints.newest is None and names(tmp_path) == ["staging_step_00000010"]
    slow.set()
    checkpoints._write.wait()
    checkpoints.settle(1)
    folder = tmp_path / "checkpoints/step_00000010"
    assert checkpoints.newest == folder and damage(folder) == []
    assert (tmp_path / "checkpoints/latest").read_text() == folder.name
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "rank_00000.safetensors", "state.json"]
    assert torch.equal(PartitionFiles(folder).whole("a", "master"), torch.arange(6.0).view(2, 3))
    assert read_state(folder) == RunState(
        {"consumed_steps": 7}, [1, 2], {"steps": {}}, 10, 1, {"vision": 64}, {}, [GroupState(3, ("teacher",))],
        checkpoint.agreement(trained.config), "1 rank in ZeRO 1",
    )  # fmt: skip
    assert load_weights(tmp_path, "teacher")[0]["b"].tolist() == [106, 107]


def test_at_most_one_save_is_in_flight(tmp_path, slow):
    checkpoints = checkpoints_of(tmp_path, keep=5)
    checkpoints.save(engine(10), state())
    threading.Timer(0.2, slow.set).start()
    checkpoints.save(engine(20), state())  # waits for the first
    assert checkpoints.newest.name == "step_00000010"
    checkpoints.finish()
    assert checkpoints.newest.name == "step_00000020" and checkpoints.written


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


def checkpoint_entry(path):
    return {"bytes": path.stat().st_size, "sha256": manifest.file_sha256(path)}


def make(run, step, content=b"weights" * 100):
    folder = run / "checkpoints" / f"step_{step:08d}"
    folder.mkdir(parents=True)
    (folder / "model.pt").write_bytes(content)
    (folder / "state.json").write_text(json.dumps({"steps": step}))
    entries = {name: checkpoint_entry(folder / name) for name in ("model.pt", "state.json")}
    write_json(folder / "manifest.json", entries)
    return folder


def test_the_newest_good_checkpoint_is_taken_and_the_damaged_one_named(tmp_path, caplog):
    old, new = make(tmp_path, 10), make(tmp_path, 20)
    checkpoints = checkpoints_of(tmp_path)
    assert checkpoints.newest_good() == new
    data = bytearray((new / "model.pt").read_bytes())
    data[123] ^= 1
    (new / "model.pt").write_bytes(data)
    assert checkpoints.newest_good() == old
    assert str(new) in caplog.text and "model.pt has another checksum" in caplog.text


def name_in_manifest(folder, name):
    """Let the manifest name a file elsewhere, with its true size and checksum."""
    shutil.copy(folder / "model.pt", folder.parent / "model.pt")
    path = folder / name
    write_json(folder / "manifest.json", {name: checkpoint_entry(path)})


def link_away(folder):
    (folder / "model.pt").rename(folder.parent / "elsewhere")
    (folder / "model.pt").symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: (f / "model.pt").unlink(), "model.pt is missing"),
        (lambda f: (f / "model.pt").write_bytes(b"short"), "model.pt has 5 bytes, not 700"),
        (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing or unreadable"),
        (lambda f: (f / "manifest.json").write_text('{"model.pt": {'), "manifest.json is missing or unreadable"),
        (lambda f: (f / "manifest.json").write_text('{"model.pt": {"cytes": 1}}'), "manifest.json is missing or"),
        (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json is missing or unreadable"),
        (lambda f: name_in_manifest(f, "../model.pt"), "../model.pt in manifest.json leads out of the checkpoint"),
        (lambda f: name_in_manifest(f, "/etc/passwd"), "/etc/passwd in manifest.json leads out of the checkpoint"),
        (lambda f: link_away(f), "model.pt in manifest.json leads out of the checkpoint"),
    ],
)
def test_damage_says_what_is_wrong(tmp_path, harm, said):
    folder = make(tmp_path, 10)
    assert damage(folder) == []
    harm(folder)
    (fault,) = damage(folder)
    assert fault.startswith(said)


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


def test_a_checkpoint_of_an_older_version_is_refused_by_its_format(tmp_path):
    with pytest.raises(ValueError, match="has format 1, this version reads 2: go on with the version that wrote it"):
        read_state(make(tmp_path, 10))


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


def test_a_run_without_a_checkpoint_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ValueError, match=f"run={tmp_path} has no complete checkpoint"):
        load_weights(tmp_path, "teacher")


def test_a_file_is_replaced_whole(tmp_path, monkeypatch):
    replace_text(tmp_path / "latest", "old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        replace_text(tmp_path / "latest", "new")
    assert (tmp_path / "latest").read_text() == "old"


def test_another_run_is_refused_by_the_key_that_differs(tmp_path):
    with pytest.raises(ValueError, match="model.width = 32, this run has 64: go on with model.width=32"):
        check_agreement(tmp_path, {"model.width": 32}, {"model.width": 64})


def test_fragments_have_to_cover_each_parameter_exactly_once():
    shapes = {"a": torch.Size([2, 3])}
    whole = [(Fragment("a", 0, 0, 0, 4), torch.arange(4.0)), (Fragment("a", 0, 0, 4, 2), torch.tensor([4.0, 5.0]))]
    assert torch.equal(assemble(shapes, whole)["a"], torch.arange(6.0).view(2, 3))
    with pytest.raises(ValueError, match="do not cover a exactly once"):
        assemble(shapes, whole[:1])
