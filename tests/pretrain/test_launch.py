"""Who runs where, the launcher's command line, and mistakes that are told before anything starts."""

import subprocess
import sys
from pathlib import Path

import pytest

from pretrain import launch
from pretrain.launch import check_files, finished_steps
from pretrain.launching.plan import Launch
from tests.pretrain.launching.test_plan import CPU, GPUS, REAL, ROOT, config


def test_the_ranks_behind_a_hostfile_resolve_the_precision_themselves() -> None:
    fp16 = config(REAL, "precision=fp16")
    assert launch.precision_text(fp16, Launch({"first": 8}, hostfile="hosts"), CPU) == "precision=fp16"
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        launch.precision_text(fp16, Launch({"localhost": 2}), CPU)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "data.shards is empty: give data.shards=PATTERN"),
        (["data.shards=/nowhere/x-*.tar", "run.dir=x"], "/nowhere/x-\\*.tar"),
        (["recipe=mixture_base"], "vision, which has no shards: set mixture.vision.shards=PATTERN mixture.speech."),
    ],
)
def test_missing_files_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_files(config(REAL, *overrides))


def test_a_missing_start_and_a_missing_folder_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "resolve", lambda shards, folders: [])
    with pytest.raises(ValueError, match="run.dir is empty"):
        check_files(config(REAL, "data.shards=x"))
    with pytest.raises(ValueError, match="init=/nowhere: no such folder"):
        check_files(config(REAL, "data.shards=x", f"run.dir={tmp_path}", "init=/nowhere"))
    (tmp_path / "checkpoints" / "step_00000005").mkdir(parents=True)
    check_files(config(REAL, "data.shards=x", f"run.dir={tmp_path}", "init=/nowhere"))


def test_a_finished_run_is_recognised(tmp_path: Path) -> None:
    done = config(f"run.dir={tmp_path}")
    assert finished_steps(done) == 0
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "latest").write_text("step_00000600\n")
    assert finished_steps(done) == 600


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
