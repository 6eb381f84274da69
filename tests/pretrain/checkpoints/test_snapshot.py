"""A copy of the step is written while training goes on."""

import threading

import pytest
import torch

from pretrain.checkpoints import saving as checkpoint
from pretrain.checkpoints import snapshot
from pretrain.checkpoints.manifest import damage
from pretrain.checkpoints.partition_files import PartitionFiles
from pretrain.checkpoints.reading import RunState, load_weights, read_state
from pretrain.engine.layout import GroupState
from tests.pretrain.checkpoints.test_saving import checkpoints_of, engine, names, state


@pytest.fixture
def slow(monkeypatch) -> threading.Event:
    """Files are written only once the event is set."""
    event, write = threading.Event(), snapshot.write_partitions

    def wait_and_write(*arguments):
        assert event.wait(20)
        return write(*arguments)

    monkeypatch.setattr(snapshot, "write_partitions", wait_and_write)
    return event


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
        {"consumed_steps": 7}, [1, 2], {"steps": {}}, steps=10, skipped=1, samples={"vision": 64},
        groups=[GroupState(3, ("teacher",))], agreement=checkpoint.agreement(trained.config),
        written_by="1 rank in ZeRO 1",
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
