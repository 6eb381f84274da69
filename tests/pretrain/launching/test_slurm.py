"""Jobs that Slurm stops are put into the queue again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pretrain.launching import exits
from tests.pretrain.launching.test_supervise import WAIT, Run


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A scontrol that writes down what it is told, and knows a job whose state is in a file."""
    script = tmp_path / "bin" / "scontrol"
    script.parent.mkdir()
    script.write_text(
        f'#!/bin/bash\necho "$*" >>{tmp_path}/told\n'
        f'[[ $1 == requeue ]] || {{ echo "JobId=7 JobName=a JobState=$(<{tmp_path}/state) Reason=None"; exit 0; }}\n'
        f'[[ ! -e {tmp_path}/broken ]] || {{ echo "slurm_requeue error: batch jobs only" >&2; exit 1; }}\n'
    )
    script.chmod(0o755)
    (tmp_path / "state").write_text("RUNNING")
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    yield tmp_path


def stopped_by_slurm(folder: Path) -> str:
    """What a run says that SIGTERM has stopped."""
    run = Run(folder, f"ready(); {WAIT}")
    run.wait_for("rank0")
    run.signal(signal.SIGTERM)
    code, said = run.end()
    assert code == exits.STOPPED
    return said.splitlines()[-1]


def test_a_job_that_slurm_stops_is_put_into_the_queue_again(scontrol: Path) -> None:
    assert stopped_by_slurm(scontrol) == "job 7 is put into the queue again"
    assert (scontrol / "told").read_text() == "show job -o 7\nrequeue 7\n"


@pytest.mark.parametrize("state", ["CANCELLED", "COMPLETING"])
def test_a_job_that_its_user_has_cancelled_is_not(scontrol: Path, state: str) -> None:
    (scontrol / "state").write_text(state)
    assert stopped_by_slurm(scontrol).startswith(f"job 7 is {state}: not put into the queue again")
    assert (scontrol / "told").read_text() == "show job -o 7\n"


def test_a_job_that_cannot_be_queued_is_told(scontrol: Path) -> None:
    (scontrol / "broken").touch()
    assert stopped_by_slurm(scontrol) == (
        "error: job 7 could not be put into the queue again: slurm_requeue error: batch jobs only; submit it again"
    )


def test_a_stop_file_alone_does_not_queue_it_again(scontrol: Path) -> None:
    code, said = Run(scontrol, "ready(); time.sleep(0.2); leave(75)").end()
    assert (code, said) == (exits.STOPPED, "") and not (scontrol / "told").exists()
