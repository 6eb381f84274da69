"""Manifests, damage and the choice of the newest good checkpoint; saving real engines is in tests/integration."""

import json
import shutil

import pytest
import torch

from data_shards.writer import replace_text
from pretrain import checkpoint
from pretrain.checkpoint import Checkpoints, damage, load_weights
from pretrain.zero_partitions import Fragment, assemble


def make(run, step, content=b"weights" * 100):
    folder = run / "checkpoints" / f"step_{step:08d}"
    folder.mkdir(parents=True)
    (folder / "model.pt").write_bytes(content)
    (folder / "state.json").write_text(json.dumps({"steps": step}))
    checkpoint._write_json(folder / "manifest.json", checkpoint._digests(folder, ["model.pt", "state.json"]))
    return folder


def test_the_newest_good_checkpoint_is_taken_and_the_damaged_one_named(tmp_path, caplog):
    old, new = make(tmp_path, 10), make(tmp_path, 20)
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.newest_good() == new
    data = bytearray((new / "model.pt").read_bytes())
    data[123] ^= 1
    (new / "model.pt").write_bytes(data)
    assert checkpoints.newest_good() == old
    assert str(new) in caplog.text and "model.pt has another checksum" in caplog.text


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: (f / "model.pt").unlink(), "model.pt is missing"),
        (lambda f: (f / "model.pt").write_bytes(b"short"), "model.pt has 5 bytes, not 700"),
        (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing or unreadable"),
        (lambda f: (f / "manifest.json").write_text('{"model.pt": {'), "manifest.json is missing or unreadable"),
        (lambda f: (f / "manifest.json").write_text('{"model.pt": {"cytes": 1}}'), "manifest.json is missing or"),
        (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json is missing or unreadable"),
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
    staging = tmp_path / "checkpoints" / "staging"
    shutil.copytree(make(tmp_path, 20), staging)
    shutil.rmtree(tmp_path / "checkpoints" / "step_00000020")
    assert Checkpoints(tmp_path, keep=2).newest_good().name == "step_00000010"
    assert not staging.exists()


def test_only_the_newest_are_kept(tmp_path):
    for step in (10, 20, 30):
        make(tmp_path, step)
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints._prune(checkpoints.folder / "step_00000030")
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["step_00000020", "step_00000030"]


def test_damaged_checkpoints_do_not_take_the_place_of_good_ones(tmp_path):
    for step in (10, 11, 15, 20):
        make(tmp_path, step)
    for step in (15, 20):  # the run resumed at 10 and has just saved 11
        (tmp_path / f"checkpoints/step_000000{step}/model.pt").write_bytes(b"damaged")
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints._prune(checkpoints.folder / "step_00000011")
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["step_00000010", "step_00000011"]


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew_by_itself(tmp_path):
    assert Checkpoints(tmp_path, keep=2).newest_good() is None
    (make(tmp_path, 10) / "model.pt").unlink()
    with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged \(step_00000010\): move them away"):
        Checkpoints(tmp_path, keep=2).newest_good()


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
        checkpoint._check_agreement(tmp_path, {"model.width": 32}, {"model.width": 64})


def test_fragments_have_to_cover_each_parameter_exactly_once():
    shapes = {"a": torch.Size([2, 3])}
    whole = [(Fragment("a", 0, 0, 0, 4), torch.arange(4.0)), (Fragment("a", 0, 0, 4, 2), torch.tensor([4.0, 5.0]))]
    assert torch.equal(assemble(shapes, whole)["a"], torch.arange(6.0).view(2, 3))
    with pytest.raises(ValueError, match="do not cover a exactly once"):
        assemble(shapes, whole[:1])
