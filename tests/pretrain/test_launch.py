"""Who runs where, the launcher's command line, and mistakes that are told before anything starts."""

import subprocess
import sys
from pathlib import Path

import pytest

from pretrain import launch
from pretrain.checkpoints import manifest
from pretrain.launching.plan import Launch
from tests.pretrain.checkpoints.test_manifest import make
from tests.pretrain.launching.test_plan import CPU, GPUS, REAL, ROOT, config


def test_the_ranks_behind_a_hostfile_resolve_the_precision_themselves() -> None:
    fp16 = config(REAL, "precision=fp16")
    assert launch.precision_text(fp16, Launch({"first": 8}, hostfile="hosts"), CPU) == "precision=fp16"
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        launch.precision_text(fp16, Launch({"localhost": 2}), CPU)


def test_a_finished_run_is_recognised(tmp_path: Path) -> None:
    plain = config(f"run.dir={tmp_path}", "train.steps=600")
    assert launch.completed_step(plain) is None
    make(tmp_path, 599)
    assert launch.completed_step(plain) is None
    make(tmp_path, 600)
    assert launch.completed_step(plain) == 600
    probed = config(f"run.dir={tmp_path}", "train.steps=600", "probe.train_shards=x", "probe.test_shards=x")
    assert launch.completed_step(probed) is None
    (tmp_path / "metrics.jsonl").write_text('{"step": 600, "modality": "vision", "knn_top1": 0.5}\n')
    assert launch.completed_step(probed) == 600


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: folder.rename(folder.parent.parent / "aside"),  # as the message about a collapse advises
        lambda folder: (folder / "state.json").write_text("{}"),
        lambda folder: (folder / "manifest.json").write_text("{}"),
        lambda folder: (folder.parent / "latest").write_text("step_99999999") and folder.rename(folder.parent / "x"),
        lambda folder: (folder.parent / "latest").write_text("../../x_700") and folder.rename(folder.parent / "x"),
        lambda folder: (folder.parent / "step_99999999").mkdir() or folder.rename(folder.parent / "x"),
    ],
)
def test_a_run_whose_newest_checkpoint_is_gone_or_damaged_is_not_complete(tmp_path: Path, harm) -> None:
    make(tmp_path, 300)
    newest = make(tmp_path, 600)
    (newest.parent / "latest").write_text(newest.name)
    harm(newest)
    assert launch.completed_step(config(f"run.dir={tmp_path}", "train.steps=600")) is None


def test_whether_a_run_is_complete_stays_open_while_its_checkpoint_cannot_be_read(tmp_path: Path, monkeypatch) -> None:
    def fails(path: Path) -> str:
        raise OSError(5, "Input/output error")

    make(tmp_path, 600)
    monkeypatch.setattr(manifest, "WAITS_S", ())
    monkeypatch.setattr(manifest, "file_sha256", fails)
    with pytest.raises(manifest.Unreadable, match="start it again once the disk answers"):
        launch.completed_step(config(f"run.dir={tmp_path}", "train.steps=600"))


def test_threads_are_cores_by_ranks() -> None:
    start = Launch({"localhost": 4})
    environment = launch.rank_environment(config(), start, CPU)
    assert (environment["OMP_NUM_THREADS"], environment["DS_ACCELERATOR"]) == ("2", "cpu")
    environment = launch.rank_environment(config("launch.threads=3"), start, GPUS)
    assert environment["OMP_NUM_THREADS"] == "3"


def test_a_mistake_is_one_line_and_code_2() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "pretrain.launch", "optimizer.lrr=1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 2
    assert finished.stderr == "error: unknown key 'optimizer.lrr': did you mean 'optimizer.lr'?\n"
