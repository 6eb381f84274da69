"""`./run.sh reshard`: the same content as whole parameters, or nothing changed."""

import errno
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from configs.schema_commands import ReshardConfig
from pretrain.checkpoints import resharding
from pretrain.checkpoints.manifest import damage
from pretrain.checkpoints.reading import load_weights, read_state
from pretrain.checkpoints.resharding import WHOLE
from pretrain.reshard import reshard
from pretrain.run_directory import lock
from tests.pretrain.checkpoints.test_saving import checkpoints_of, engine, names, state
from tests.test_layering import loaded


@pytest.fixture
def run(tmp_path):
    checkpoints_of(tmp_path).save(engine(10), state(), wait=True)
    return tmp_path


@pytest.mark.parametrize("files", [1, 2, 5])
def test_parameters_are_whole_and_under_their_names(run, files):
    before, folder = read_state(run / "checkpoints/step_00000010"), reshard(ReshardConfig(run=str(run), files=files))
    assert damage(folder) == [] and names(run) == ["latest", "step_00000010"]
    parts = sorted(folder.glob("rank_*.safetensors"))
    assert len(parts) == min(files, 2)
    found = {name: tensor for path in parts for name, tensor in load_file(path).items()}
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        "a/master": [0, 1, 2, 3, 4, 5], "a/teacher": [100, 101, 102, 103, 104, 105],
        "b/master": [6, 7], "b/teacher": [106, 107],
    }  # fmt: skip
    after = read_state(folder)
    assert after.written_by == WHOLE
    after.written_by = before.written_by
    assert after == before
    assert torch.equal(load_weights(run, "teacher")[0]["a"], torch.arange(100.0, 106).view(2, 3))


def test_it_is_done_twice_without_harm(run):
    for files in (2, 1):
        reshard(ReshardConfig(run=str(run), files=files))
    assert load_weights(run, "student")[0]["b"].tolist() == [6, 7]


def test_the_command_loads_no_deepspeed(run):
    assert loaded("pretrain.reshard", f"run={run}") == ["torch"]
    assert loaded("pretrain.reshard", f"run={run}/absent") == []


def test_a_run_in_use_or_without_checkpoint_is_refused(run, tmp_path_factory):
    with lock(run), pytest.raises(ValueError, match="is in use"):
        reshard(ReshardConfig(run=str(run)))
    other = tmp_path_factory.mktemp("other")
    with pytest.raises(ValueError, match="is no run directory"):
        reshard(ReshardConfig(run=str(other / "absent")))
    assert not (other / "absent").exists()


def test_a_full_disk_leaves_the_old_one(run, monkeypatch):
    def fills(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(resharding, "write_partitions", fills)
        with pytest.raises(OSError, match="No space left"):
            reshard(ReshardConfig(run=str(run)))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(OSError, match=r"no room for a second checkpoint in .*: 1,048,640 bytes needed, 100 free"):
        reshard(ReshardConfig(run=str(run)))
    assert names(run) == ["latest", "step_00000010"] and damage(run / "checkpoints/step_00000010") == []
