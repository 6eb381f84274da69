"""The supervisor with launchers and ranks that are small scripts: notices, deaths, codes, the queue."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pretrain.launching import exits, supervise

ROOT = Path(__file__).parents[3]


PYTHON = [sys.executable, "-I", "-S"]


RANK = """
import os, signal, sys, time
def leave(code):
    with open(os.environ["DATA2VEC_EXITS"], "a") as file: file.write(f"{os.getpid()} {code}\\n")
    os._exit(code)
def ready(handler=lambda *_: leave(75)):
    for number in signal.SIGTERM, signal.SIGINT, signal.SIGUSR1: signal.signal(number, handler)
    open(f"rank{sys.argv[1]}", "w").close()
def deaf(): ready(lambda *_: None)
"""


LAUNCHER = """
import os, signal, subprocess, sys, time
def stop(*_): open("terminated", "w").close(); sys.exit(1)
signal.signal(signal.SIGTERM, stop)
ranks = [subprocess.Popen([*sys.argv[1].split(), "-c", body, str(n)]) for n, body in enumerate(sys.argv[2:])]
failed = []
while not failed and any(rank.poll() is None for rank in ranks):
    failed = [rank.returncode for rank in ranks if rank.poll()]
    time.sleep(0.02)
if failed and failed[0] != 75: [rank.wait() for rank in ranks]
sys.exit(failed[0] if failed else 0)
"""


WAIT = "time.sleep(30)"


class Run:
    """A supervisor, started in its own session with the given ranks."""

    def __init__(self, folder: Path, *ranks: str, launcher: str = LAUNCHER, patch: str = "", here: int | None = None):
        command = [*PYTHON, "-c", launcher, " ".join(PYTHON), *(RANK + body for body in ranks)]
        self.folder = folder
        program = (
            "import os, sys; from pathlib import Path; from pretrain.launching import exits, supervise\n"
            "from pretrain.checkpoints.folders import describe_newest\n"
            f"supervise.PEERS_S, supervise.SCAN_S, exits.AGAIN_S = 0.5, 0.05, 0.5\n{patch}\n"
            f"job = supervise.Job({command!r}, dict(os.environ), Path('.'), {len(ranks) if here is None else here}, "
            "lambda: describe_newest(Path('.')), os.environ.get('SLURM_JOB_ID', ''))\n"
            "sys.exit(supervise.supervise(job))\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", program], cwd=folder, env=environment, start_new_session=True,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait_for(self, *names: str) -> None:
        """Until files of the run are there."""
        end = time.monotonic() + 20
        while not all((self.folder / name).exists() for name in names):
            assert time.monotonic() < end and self.process.poll() is None, names
            time.sleep(0.01)

    def members(self) -> list[psutil.Process]:
        """The living processes that it started."""
        own = [p for p in psutil.process_iter() if p.pid != self.process.pid and supervise.lives(p)]
        return [process for process in own if session_of(process) == self.process.pid]

    def launcher(self) -> psutil.Process:
        (found,) = psutil.Process(self.process.pid).children()
        return found

    def end(self) -> tuple[int, str]:
        """The exit code and what was said; nothing may be left."""
        _, errors = self.process.communicate(timeout=20)
        assert not self.members()
        return self.process.returncode, errors


def session_of(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return 0


@pytest.fixture(autouse=True)
def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def test_a_run_that_is_done(tmp_path: Path) -> None:
    assert Run(tmp_path, "leave(0)", "leave(0)").end() == (exits.DONE, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_notice_reaches_the_ranks_and_their_code_counts(tmp_path: Path, number: signal.Signals) -> None:
    """The launcher has a code of its own."""
    launcher = LAUNCHER.replace("sys.exit(failed[0] if failed else 0)", "sys.exit(9)")
    body = f"ready(lambda number, _: (open(f'got{{number}}', 'w').close(), leave(75))); {WAIT}"
    run = Run(tmp_path, body, body, launcher=launcher)
    run.wait_for("rank0", "rank1")
    run.signal(number)
    code, said = run.end()
    assert code == exits.STOPPED and said.startswith(f"{number.name}: the ranks finish their step, save and stop")
    assert not (tmp_path / "terminated").exists(), "the launcher would give each rank 30 s"
    assert [path.name for path in tmp_path.glob("got*")] == [f"got{int(number)}"], (
        "the ranks name it as the user sent it"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_a_signal_to_the_launcher_while_it_imports_leaves_no_traceback(tmp_path: Path, number: signal.Signals) -> None:
    """Some senders signal every process of a job."""
    importing = "import time; open('importing', 'w').close(); time.sleep(0.3)\n"
    run = Run(tmp_path, "leave(0)", launcher=importing + LAUNCHER)
    run.wait_for("importing")
    run.launcher().send_signal(number)
    assert run.end() == (exits.DONE, "")


def test_one_signal_sent_twice_is_one_notice_and_a_later_one_ends_everything(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step_00000040").mkdir(parents=True)
    run = Run(tmp_path, f"deaf(); {WAIT}; time.sleep(30)", f"deaf(); {WAIT}; time.sleep(30)")
    run.wait_for("rank0", "rank1")
    run.signal(signal.SIGINT)
    run.signal(signal.SIGTERM)
    time.sleep(0.3)
    assert len(run.members()) == 3 and run.process.poll() is None
    time.sleep(0.4)
    run.signal(signal.SIGINT)
    code, said = run.end()
    assert code == exits.STOPPED
    assert "second notice: every process is killed; the last checkpoint is checkpoints/step_00000040" in said


def test_a_notice_before_the_ranks_listen_ends_them(tmp_path: Path) -> None:
    run = Run(tmp_path, f"ready(); {WAIT}", f"open('rank1', 'w'); {WAIT}")
    run.wait_for("rank0", "rank1")
    run.signal(signal.SIGUSR1)
    assert run.end() == (exits.STOPPED, "SIGUSR1 before training began: every process is ended\n")


def test_a_killed_rank(tmp_path: Path) -> None:
    run = Run(tmp_path, "ready(); time.sleep(0.5); os.kill(os.getpid(), 9)", "ready(); time.sleep(0.9); leave(76)")
    code, said = run.end()
    assert code == exits.STALLED
    assert said == (
        "error: a rank was killed by signal 9 (SIGKILL: out of memory?); "
        "start it again: it resumes from its last checkpoint\n"
    )


@pytest.mark.parametrize(("body", "expected"), [("leave(77)", 77), ("os.kill(os.getpid(), 9)", 76), ("sys.exit(1)", 1)])
def test_ranks_that_wait_for_a_dead_one_are_ended(tmp_path: Path, body: str, expected: int) -> None:
    begin = time.monotonic()
    code, said = Run(tmp_path, f"deaf(); {WAIT}; {WAIT}", f"ready(); time.sleep(0.5); {body}").end()
    assert code == expected and time.monotonic() - begin < 10
    assert "error: 1 ranks still waited 0.5 s after another had ended: killed; start it again" in said


def test_a_rank_that_is_done_does_not_hurry_the_others(tmp_path: Path) -> None:
    assert Run(tmp_path, "ready(); time.sleep(1.5); leave(0)", "ready(); leave(0)").end() == (exits.DONE, "")


def test_a_killed_launcher_is_a_notice(tmp_path: Path) -> None:
    run = Run(tmp_path, f"ready(); {WAIT}", f"ready(); {WAIT}")
    run.wait_for("rank0", "rank1")
    time.sleep(0.3)
    run.launcher().kill()
    code, said = run.end()
    assert code == exits.STOPPED and said.startswith("DeepSpeed's launcher has ended: the ranks finish their step")


def test_a_killed_supervisor_is_a_notice_to_the_launcher(tmp_path: Path) -> None:
    run = Run(tmp_path, f"ready(); {WAIT}")
    run.wait_for("rank0")
    launcher = run.launcher()
    run.signal(signal.SIGKILL)
    run.process.wait(timeout=20)
    launcher.wait(timeout=20)
    assert (tmp_path / "terminated").exists()
    for rank in run.members():
        rank.kill()


def test_the_launcher_has_its_own_group_and_ignores_sigusr1(tmp_path: Path) -> None:
    alive = "import os, signal; os.kill(os.getpid(), signal.SIGUSR1); print(os.getpgid(0) == os.getpid(), os.getsid(0))"
    run = Run(tmp_path, launcher=alive + "; open('said', 'w').write(f'{os.getpgid(0) == os.getpid()} {os.getsid(0)}')")
    assert run.end() == (exits.DONE, "")
    assert (tmp_path / "said").read_text() == f"True {run.process.pid}"


def test_ranks_elsewhere_are_told_by_a_file(tmp_path: Path) -> None:
    """Also where one was removed because it seemed to be there from before."""
    launcher = "import os, sys, time\nopen('started', 'w').close()\nfor _ in range(2):\n"
    launcher += "    while not os.path.exists('STOP'): time.sleep(0.01)\n    os.remove('STOP')\n"
    launcher += "time.sleep(0.2)\nsys.exit(75)"
    run = Run(tmp_path, launcher=launcher, here=0)
    run.wait_for("started")
    run.signal(signal.SIGTERM)
    code, said = run.end()
    assert code == exits.STOPPED and said.startswith("SIGTERM: STOP tells the ranks to save and stop; a second signal")
    assert not (tmp_path / "STOP").exists(), "the next start would find it"


def test_a_second_notice_ends_ranks_elsewhere_through_the_runner(tmp_path: Path) -> None:
    run = Run(tmp_path, f"ready(); {WAIT}", here=0)
    run.wait_for("rank0")
    run.signal(signal.SIGTERM)
    time.sleep(0.8)
    run.signal(signal.SIGTERM)
    code, said = run.end()
    assert code == exits.STOPPED and "there is no checkpoint yet" in said and (tmp_path / "terminated").exists()
