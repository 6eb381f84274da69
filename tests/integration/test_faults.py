"""The fault matrix of docs/reliability.md: a test per row. After each fault the same command ends with the metrics rows
and the weights of a run that nothing disturbed, bit for bit."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pretrain.checkpoints.folders import checkpoint_folders
from pretrain.launching.exits import DONE, FAILED, MISTAKE, STALLED, STOPPED
from tests.data_shards.http_store import serve
from tests.data_shards.shard_tools import flip_byte
from tests.integration.made_up import tiny
from tests.integration.processes import ENVIRONMENT, ROOT, session_processes, signal_all
from tests.integration.real_shards import build_shards
from tests.integration.runs import assert_same_run, rows
from tests.namespaces import with_shared_memory

pytestmark = pytest.mark.slow

STEPS, LONG = 40, 80  # LONG: enough for twenty lives that each get some steps further


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return build_shards(tmp_path_factory.mktemp("vision"), "vision")


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed")
    finish(shards, run)
    assert len(rows(run)) == STEPS
    return run


@pytest.fixture
def run(tmp_path) -> Path:
    """A run directory; the run's log lies beside it."""
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


class Life:
    """A run from its start to its end, as a user starts it: supervisor, launcher, two ranks and their workers."""

    def __init__(
        self, shards: Path | str, run: Path, plant: str = "nothing", at: tuple[int, int] = (1, LONG), *more: str,
        steps: int = STEPS, shared_memory: str = "",
    ):  # fmt: skip
        arguments = [
            *tiny("vision", 16, 4), f"data.shards={shards}/train-*.tar", f"run.dir={run}", "log.every=1",
            f"train.steps={steps}", "schedule.steps=100", "checkpoint.every=3", "checkpoint.keep=4", "precision=fp32",
            "data.workers=1", "model.drop_path=0.1", "log.peak_tflops=1", "deepspeed=zero2", "launch.ranks=2", *more,
        ]  # fmt: skip
        self.run, self.began = run, time.time()
        module = ["-m", "tests.integration.planted_launch", plant, *map(str, at), *arguments]
        command = with_shared_memory(shared_memory, *module) if shared_memory else [sys.executable, *module]
        self.log = open(run.parent / f"{run.name}.log", "w+b")  # noqa: SIM115 a pipe might fill
        self.process = subprocess.Popen(
            command, env=ENVIRONMENT, cwd=ROOT, start_new_session=True, stdout=self.log, stderr=self.log
        )

    def wait_until(self, condition, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.01)

    def end(self, seconds: float = 60) -> int:
        """Its exit code, once every process of it has ended."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill(self.everything())
            raise AssertionError(f"still there after {seconds} s: {self.said()}") from None
        deadline = time.monotonic() + 10
        while left := self.everything():
            assert time.monotonic() < deadline, f"left behind: {left}"
            time.sleep(0.05)
        return code

    def said(self) -> str:
        self.log.flush()
        return Path(self.log.name).read_text()[-60_000:]

    def everything(self) -> list[psutil.Process]:
        """Every living process of its session."""
        return session_processes(self.process.pid)

    def launcher(self) -> list[psutil.Process]:
        """DeepSpeed's, once it is there."""
        return [p for p in self.everything() if self._runs(p, "deepspeed.launcher.launch")]

    def ranks(self) -> list[psutil.Process]:
        """Its ranks."""
        found = []
        for launcher in self.launcher():
            with contextlib.suppress(psutil.Error):
                found += [p for p in launcher.children() if self._runs(p, "tests.integration.planted")]
        return found

    def workers(self) -> list[psutil.Process]:
        """The loader processes of its ranks: forks of a server that each rank has started."""
        servers = [child for rank in self.ranks() for child in rank.children() if self._runs(child, "forkserver")]
        return [worker for server in servers for worker in server.children()]

    def saves(self) -> bool:
        """Whether it is in the middle of a save."""
        with contextlib.suppress(OSError):  # it has just got its name
            return any(path.stat().st_mtime > self.began for path in (self.run / "checkpoints").glob("staging_*"))
        return False

    def steps(self) -> int:
        """Rows so far."""
        return len(rows(self.run))

    @staticmethod
    def kill(processes: list[psutil.Process]) -> None:
        signal_all(processes, signal.SIGKILL)

    @staticmethod
    def _runs(process: psutil.Process, what: str) -> bool:
        try:
            return any(what in part for part in process.cmdline())
        except psutil.Error:
            return False


def finish(shards: Path, run: Path, steps: int = STEPS) -> str:
    """Run to the end, undisturbed; what it said."""
    life = Life(shards, run, steps=steps)
    assert life.end(240) == DONE, life.said()
    return life.said()


def newest(run: Path) -> str:
    return checkpoint_folders(run / "checkpoints")[-1].name


VICTIMS = {
    "one rank": lambda life: life.ranks()[-1:],
    "all ranks": lambda life: life.ranks(),
    "the launcher": lambda life: life.launcher(),
}


def test_kill_9_at_three_random_moments(shards, undisturbed, run):
    """Of one rank while they start, of all between two rows, of the launcher in the middle of a save."""
    kill_at(list(zip(("start", "step", "save"), VICTIMS.values(), strict=True)), shards, undisturbed, run)


@pytest.mark.soak
def test_kill_9_at_twenty_random_moments(shards, run, tmp_path):
    """Of one rank, of all, of the launcher; while they start, between two rows, and in the middle of a save."""
    victims = list(VICTIMS.values())
    moments = [(moment, victims[number // 3 % 3]) for number, moment in enumerate(["start", "step", "save"] * 7)]
    (tmp_path / "undisturbed").mkdir()
    finish(shards, tmp_path / "undisturbed", LONG)
    kill_at(moments[:20], shards, tmp_path / "undisturbed", run, LONG)


def kill_at(
    moments: list[tuple[str, Callable]], shards: Path, undisturbed: Path, run: Path, steps: int = STEPS
) -> None:
    """Kill the victims at each of the moments, one life each; then finish."""
    dice = random.Random(os.environ.get("FAULTS_SEED", "0"))
    killed = 0
    for moment, victims in moments:
        life, before = Life(shards, run, "slow", steps=steps), rows(run)
        if moment == "start":
            life.wait_until(lambda life=life, victims=victims: victims(life))
            time.sleep(dice.uniform(0, 4))
        elif moment == "step":
            file = run / "metrics.jsonl"
            life.wait_until(lambda life=life, file=file: file.exists() and file.stat().st_mtime > life.began + 1)
            life.wait_until(lambda before=before: rows(run) != before and rows(run))
            time.sleep(dice.uniform(0, 0.4))
        else:
            life.wait_until(lambda life=life: life.saves())
        chosen = victims(life)
        killed += bool(chosen)
        life.kill(chosen)
        assert life.end() in (STOPPED, STALLED), life.said()
        assert "Traceback" not in life.said()
    assert killed == len(moments)
    assert len(rows(run)) < steps, "every life was cut short"
    finish(shards, run, steps)
    assert_same_run(run, undisturbed)


def test_an_outage_of_the_store_ends_with_76_and_the_same_command_goes_on(shards, run, tmp_path):
    """Answers of 403 in the middle of a run: nothing is replaced, and nothing lost."""
    keys = ["data.chunk_bytes=2048", "data.cache_gb=0.00002", "data.read_ahead_mb=0", "data.retries=1"]
    keys += [f"data.cache_dir={tmp_path}/cache"]
    with serve(shards) as store:
        life = Life(store.url, run, "nothing", (1, LONG), *keys)
        life.wait_until(lambda: life.steps() >= 3)
        store.status = 403
        assert life.end() == STALLED, life.said()
        said = life.said()
        assert "data.shards cannot be read: " in said and "check the credentials of the store" in said
        assert "Traceback" not in said and "bad sample" not in said and life.steps() < STEPS
        store.status = 0
        life = Life(store.url, run, "nothing", (1, LONG), *keys)
        assert life.end(240) == DONE, life.said()
    assert [row["bad_samples"] for row in rows(run)] == [0] * STEPS


def test_sigterm_in_a_forward_pass_in_a_save_and_in_a_wait_for_data(shards, undisturbed, run):
    """Whoever gets it, the supervisor alone or every process: a checkpoint of that very step, code 75, within 30 s."""
    for number, kind in enumerate(("forward", "save", "data")):
        life = Life(shards, run, kind, (4 + 12 * number, STEPS))
        life.wait_until((run / f"at_{kind}").exists)
        told = [psutil.Process(life.process.pid)] if number % 2 else life.everything()
        signal_all(told, signal.SIGTERM)
        began = time.monotonic()
        assert life.end() == STOPPED, life.said()
        assert time.monotonic() - began < 30
        assert "notice to stop (SIG" in life.said() and newest(run) == f"step_{rows(run)[-1]['step']:08d}"
        assert "loader process failed" not in life.said()
    finish(shards, run)
    assert_same_run(run, undisturbed)


def test_a_second_signal_leaves_at_once_and_the_last_checkpoint_is_good(shards, undisturbed, run):
    life = Life(shards, run, "forward", (5, STEPS))
    life.wait_until((run / "at_forward").exists)
    os.kill(life.process.pid, signal.SIGINT)
    time.sleep(2.2)  # later than what counts as the same
    began = time.monotonic()
    os.kill(life.process.pid, signal.SIGINT)
    assert life.end() == STOPPED and time.monotonic() - began < 3, life.said()
    finish(shards, run)
    assert_same_run(run, undisturbed)


def test_a_stop_file_saves_and_stops_and_is_gone(shards, undisturbed, run):
    life = Life(shards, run, "slow")
    life.wait_until(lambda: life.steps() >= 4)
    (run / "STOP").touch()
    assert life.end() == STOPPED, life.said()
    assert not (run / "STOP").exists() and newest(run) == f"step_{rows(run)[-1]['step']:08d}"
    finish(shards, run)
    assert_same_run(run, undisturbed)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_truncated_flipped_and_missing_files_of_checkpoints(shards, undisturbed, run):
    life = Life(shards, run, "slow")
    life.wait_until(lambda: life.steps() > 14)
    life.kill(life.everything())
    life.end()
    folders = checkpoint_folders(run / "checkpoints")
    assert len(folders) == 4
    truncate(folders[3] / "rank_00001.safetensors")
    flip(folders[2] / "rank_00000.safetensors")
    (folders[1] / "state.json").unlink()
    said = finish(shards, run)
    assert f"{folders[3]} is damaged and passed over: rank_00001.safetensors has" in said
    assert f"{folders[2]} is damaged and passed over: rank_00000.safetensors has another checksum" in said
    assert f"{folders[1]} is damaged and passed over: state.json is missing" in said
    assert f"resuming from {folders[0]}" in said
    assert_same_run(run, undisturbed)


def test_a_checkpoint_that_cannot_be_read_for_a_moment_is_neither_damaged_nor_removed(shards, undisturbed, run):
    life = Life(shards, run, "slow")
    life.wait_until(lambda: life.steps() > 7)
    life.kill(life.everything())
    life.end()
    found = checkpoint_folders(run / "checkpoints")
    life = Life(shards, run, "unreadable")
    assert life.end() == STALLED, life.said()
    assert f"error: {found[-1]}/rank_00001.safetensors cannot be read (Input/output error). That is no" in life.said()
    assert "is damaged" not in life.said() and "Traceback" not in life.said()
    assert checkpoint_folders(run / "checkpoints") == found
    assert f"resuming from {found[-1]}" in finish(shards, run)
    assert_same_run(run, undisturbed)


def test_a_killed_worker_is_said_in_one_line(shards, undisturbed, run):
    life = Life(shards, run, "slow")
    life.wait_until(lambda: life.steps() >= 5)
    life.kill(life.workers()[:1])
    assert life.end() == STALLED, life.said()
    assert "a loader process failed" in life.said() and "lower data.workers" in life.said()
    assert "Traceback" not in life.said()
    finish(shards, run)
    assert_same_run(run, undisturbed)


def test_a_rank_that_hangs_ends_the_run_with_the_stacks_of_all(shards, undisturbed, run):
    life = Life(shards, run, "hang", (8, 8), "watchdog.step_s=4")
    assert life.end() == STALLED, life.said()
    assert "step 8 has taken 4 s, waiting for other ranks included (watchdog.step_s)" in life.said()
    stacks = sorted((run / "hangs").iterdir())
    assert sorted({path.name.rpartition("_rank_")[2] for path in stacks}) == ["00000.txt", "00001.txt"]
    text = {path.name[-9:-4]: path.read_text() for path in stacks}
    assert "planted.py" in text["00001"] and "in step" in text["00001"]
    assert "all_reduce" in text["00000"] or "distributed" in text["00000"]
    finish(shards, run)
    assert_same_run(run, undisturbed)


def test_an_error_of_every_rank_is_said_once(shards, run):
    """Rank 1 waits while rank 0 tells it; the launcher then ends rank 1, whatever handler it has installed."""
    copy = run.parent / "copy"
    shutil.copytree(shards, copy)
    flip_byte(next(copy.glob("*.idx.npy")), 140)
    life = Life(copy, run)
    assert life.end(60) == MISTAKE
    assert life.said().count("is not the sidecar that index.json promises") == 1, life.said()


def test_a_small_shared_memory_is_said_and_the_run_goes_on(shards, run):
    """As in a container without `--shm-size`: of the 4 MiB a batch takes 2.4, and a second one waited for ever."""
    images = ["vision.image_size=224", "vision.patch_size=56", "batch.micro=16", "launch.ranks=1"]
    life = Life(shards, run, "nothing", (1, LONG), *images, steps=4, shared_memory="4m")
    assert life.end(120) == DONE and len(rows(run)) == 4, life.said()
    assert "/dev/shm has 4 MiB free" in life.said() and "--shm-size=1g" in life.said()
    assert "Traceback" not in life.said()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 6 MiB; a checkpoint of these runs takes 0.6, and is granted 1 more."""
    if os.geteuid():
        pytest.skip("only root may mount the small file system that this test fills")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_fills_leaves_the_checkpoints_and_the_run_going(shards, undisturbed, small_disk):
    run = small_disk / "run"
    run.mkdir()
    life = Life(shards, run, "slow")
    life.wait_until(lambda: (run / "checkpoints/latest").exists())
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(b"0" * 4096):
            pass
    before = newest(run)
    life.wait_until(lambda: "bytes needed" in life.said() or "could not be written" in life.said())
    time.sleep(1)
    assert life.process.poll() is None and newest(run) >= before
    ballast.unlink()
    life.wait_until(lambda: newest(run) > before)
    assert life.end(120) == DONE, life.said()
    assert "and training goes on" in life.said() and "Traceback (most recent call last)" not in life.said()
    assert_same_run(run, undisturbed)


def test_a_run_whose_checkpoints_never_fit_does_not_start(shards, small_disk):
    run = small_disk / "run"
    run.mkdir()
    with (small_disk / "ballast").open("wb") as file:
        file.write(b"0" * (5 * 2**20))
    life = Life(shards, run)
    assert life.end() == FAILED, life.said()
    assert "error: no room for a checkpoint in" in life.said() and "bytes needed" in life.said()
    assert "Traceback" not in life.said()
