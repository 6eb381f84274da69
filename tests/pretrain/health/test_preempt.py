"""Notices to stop at a rank: signals, the file RUN/STOP, and a second signal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pretrain.engine import distributed
from pretrain.health import preempt
from pretrain.health.preempt import Preemption
from pretrain.launching import exits

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def handlers_are_put_back():
    before = {number: signal.getsignal(number) for number in exits.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", exits.SIGNALS)
def test_a_signal_is_a_notice(tmp_path, number):
    preemption = Preemption(tmp_path)
    assert not preemption.noticed
    os.kill(os.getpid(), number)
    assert preemption.noticed and preemption.reason == f"notice to stop ({number.name})"


def test_a_file_is_a_notice_to_rank_0_looked_for_once_a_second_and_removed_once_it_is_acted_on(tmp_path, monkeypatch):
    monkeypatch.setattr(preempt, "LOOK_S", 0.2)
    preemption = Preemption(tmp_path)
    assert not preemption.noticed
    (tmp_path / "STOP").touch()
    assert not preemption.noticed, "a look at the disk in every step would be one too many"
    time.sleep(0.25)
    assert preemption.noticed and preemption.reason == f"notice to stop ({tmp_path}/STOP)"
    preemption.acknowledge()
    assert not (tmp_path / "STOP").exists() and preemption.noticed


def test_other_ranks_do_not_look(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    preemption = Preemption(tmp_path)
    (tmp_path / "STOP").touch()
    assert not preemption.noticed and preemption.reason == "notice to stop (at another rank)"
    preemption.acknowledge()
    assert (tmp_path / "STOP").exists()


def test_a_file_that_cannot_be_removed_is_named(tmp_path, caplog):
    preemption = Preemption(tmp_path)
    (tmp_path / "STOP").mkdir()
    preemption.acknowledge()
    assert f"{tmp_path}/STOP cannot be removed" in caplog.text and "before the next start" in caplog.text


def test_a_file_from_before_is_removed_with_a_word(tmp_path, caplog):
    (tmp_path / "STOP").touch()
    assert not Preemption(tmp_path).noticed
    assert not (tmp_path / "STOP").exists() and "was there before the run began: removed" in caplog.text


def test_a_second_signal_leaves_at_once_but_not_what_is_the_same_notice_twice(tmp_path):
    program = (
        "import os, signal, sys, time; from pathlib import Path; from pretrain.launching import exits\n"
        "exits.AGAIN_S = 0.4\nfrom pretrain.health.preempt import Preemption\n"
        "preemption = Preemption(Path('.')); send = lambda: os.kill(os.getpid(), signal.SIGTERM)\n"
        "send(); send(); print('alive', flush=True); time.sleep(0.5); send(); time.sleep(5); print('still here')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), exits.NOTES: str(tmp_path / "notes")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (exits.STOPPED, "alive\n"), done.stderr
    assert list(exits.read_notes(tmp_path / "notes").values()) == [exits.STOPPED]
