"""Who runs where, the launcher's command line, and mistakes that are told before anything starts."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data_shards.shards import storage
from pretrain import launch
from pretrain.checkpoints import manifest
from pretrain.launching import exits, resolved
from pretrain.launching.plan import Launch
from tests.data_shards.http_store import serve
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


def test_threads_that_wait_leave_their_cores_to_others_unless_the_user_says_otherwise(monkeypatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert launch.rank_environment(config(), Launch({"localhost": 2}), CPU)["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert launch.rank_environment(config(), Launch({"localhost": 2}), CPU)["OMP_WAIT_POLICY"] == "ACTIVE"


def test_a_mistake_is_one_line_and_code_2() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "pretrain.launch", "optimizer.lrr=1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 2
    assert finished.stderr == "error: unknown key 'optimizer.lrr': did you mean 'optimizer.lr'?\n"


def code_of(*overrides: str) -> int:
    """Exit code of a run that does not get as far as starting its ranks."""
    with pytest.raises(SystemExit) as ended:
        launch.run(list(overrides))
    return ended.value.code


@pytest.fixture
def keep_signals():
    before = {number: signal.getsignal(number) for number in exits.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("keep_signals")
def test_a_store_that_does_not_answer_is_worth_another_start_and_one_that_refuses_is_not(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(storage, "_FIRST_WAIT_S", 0.001)
    (tmp_path / "index.json").touch()
    with serve(tmp_path) as store:
        overrides = [f"data.shards={store.url}/", f"run.dir={tmp_path}/run", "data.retries=1"]
        store.every, store.numbers = 1, iter(lambda: 0, 1)  # 500, always
        assert code_of(*overrides) == exits.STALLED
        assert "500" in (said := capsys.readouterr().err) and "the same command goes on once the store answers" in said
        assert said.count("\n") == 1
        (tmp_path / "index.json").unlink()
        assert code_of(*overrides) == exits.MISTAKE
        assert "no shards match" in capsys.readouterr().err


@pytest.mark.usefixtures("keep_signals")
def test_a_disk_that_cannot_be_written_is_a_line(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DATA2VEC_CACHE", f"{tmp_path}/file")
    assert code_of() == exits.MISTAKE
    assert (said := capsys.readouterr().err).startswith(f"error: {tmp_path}/file") and "give another path" in said


@pytest.mark.usefixtures("keep_signals")
def test_an_interface_that_is_not_there_is_a_mistake(monkeypatch, capsys) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth77")
    monkeypatch.setattr(resolved, "this_machine", lambda: CPU)
    assert code_of() == exits.MISTAKE
    assert capsys.readouterr().err.startswith("error: GLOO_SOCKET_IFNAME=eth77: there is no network interface eth77")


@pytest.mark.parametrize("number", exits.SIGNALS)
def test_a_notice_before_anything_has_started_is_a_notice(number: signal.Signals) -> None:
    code = "import os, sys, time; from pretrain import launch; from pretrain.launching import resolved\n"
    code += "resolved.this_machine = lambda: (print('here', flush=True), time.sleep(60))\nlaunch.run([])"
    command, environment = [sys.executable, "-c", code], {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout and process.stdout.readline() == "here\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (exits.STOPPED, "error: interrupted: give the same command again\n")
