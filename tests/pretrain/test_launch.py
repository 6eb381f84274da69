"""Who runs where, the launcher's command line, and mistakes that are told before anything starts."""

import subprocess
import sys
from pathlib import Path

import pytest

from pretrain import launch
from pretrain.checkpoints.manifest import newest_step
from pretrain.launching.plan import Launch
from tests.pretrain.launching.test_plan import CPU, GPUS, REAL, ROOT, config


def test_the_ranks_behind_a_hostfile_resolve_the_precision_themselves() -> None:
    fp16 = config(REAL, "precision=fp16")
    assert launch.precision_text(fp16, Launch({"first": 8}, hostfile="hosts"), CPU) == "precision=fp16"
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        launch.precision_text(fp16, Launch({"localhost": 2}), CPU)


def test_a_finished_run_is_recognised(tmp_path: Path) -> None:
    assert newest_step(tmp_path) == 0
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "latest").write_text("step_00000600\n")
    assert newest_step(tmp_path) == 600
    probed = config(f"run.dir={tmp_path}", "train.steps=600", "probe.train_shards=x", "probe.test_shards=x")
    assert not launch.is_complete(probed, 599) and not launch.is_complete(probed, 600)
    (tmp_path / "metrics.jsonl").write_text('{"step": 600, "modality": "vision", "knn_top1": 0.5}\n')
    assert launch.is_complete(probed, 600)


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
