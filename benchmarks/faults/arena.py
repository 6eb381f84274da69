"""A trial, the commands that it starts, and the data and the undisturbed run that all trials share."""

from __future__ import annotations

import hashlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from pretrain.launching.exits import DONE, STALLED
from tests.integration.made_up import tiny
from tests.integration.processes import ENVIRONMENT, ROOT, session_processes, signal_all
from tests.integration.real_shards import build_shards
from tests.integration.runs import assert_same_run

STEPS = 15
LIMIT_S = 240.0  # a command that takes longer stands still


@dataclass
class Trial:
    """What one fault did."""

    kind: str
    seed: int
    codes: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def expect(self, holds: bool, problem: str, said: str = "") -> None:
        """Note a problem, with the end of what the command said, unless `holds`."""
        if not holds:
            self.problems.append(problem + (f"; it said: {said[-600:]}" if said else ""))


class Command:
    """A command of ours in a session of its own, its output in a file."""

    def __init__(self, trial: Trial, *arguments: str) -> None:
        self.trial, self.arguments, self.began = trial, arguments, time.time()
        self._log = tempfile.TemporaryFile("w+b")  # noqa: SIM115 open as long as the command
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=ROOT, env=ENVIRONMENT, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
        )  # fmt: skip

    def said(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def everything(self) -> list[psutil.Process]:
        return session_processes(self.process.pid)

    def wait_for(self, condition: Callable[[], object]) -> bool:
        """Wait until the condition holds; False if the command ended first."""
        end = time.monotonic() + LIMIT_S
        while not condition():
            if self.process.poll() is not None or time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def end(self, *allowed: int) -> str:
        """Wait for its end, judge its exit code, and return what it said."""
        try:
            code = self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            self.trial.problems.append(f"code: still there after {LIMIT_S:.0f} s; it said: {self.said()[-600:]}")
            signal_all(self.everything(), signal.SIGKILL)
            code = self.process.wait()
        self.trial.codes.append(code)
        said = self.said()
        self.trial.expect(code in allowed, f"code {code}, not {allowed}", said)
        self.trial.expect("Traceback (most recent call last)" not in said, "traceback", said)
        return said


def train(trial: Trial, shards: str, run: Path, *more: str) -> Command:
    """`./run.sh pretrain` on two ranks, a tiny network, a checkpoint every third step."""
    return Command(
        trial, "pretrain.launch", *tiny("vision", 16, 4), f"data.shards={shards}", f"run.dir={run}", "log.every=1",
        f"train.steps={STEPS}", "schedule.steps=100", "checkpoint.every=3", "checkpoint.keep=4", "precision=fp32",
        "data.workers=1", "launch.ranks=2", "deepspeed=zero1", *more,
    )  # fmt: skip


def build(trial: Trial, source: str, files: Path, output: Path, *more: str) -> Command:
    """`./run.sh shards build`."""
    return Command(
        trial, "data_shards", "build", f"source={source}", f"input={files}", f"output={output}", "workers=2", *more
    )


def flip(path: Path, dice: random.Random) -> None:
    """Flip one bit somewhere in a file."""
    data = bytearray(path.read_bytes())
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)


def content(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder, by its name."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class Arena:
    """Data, an undisturbed run on it, and an empty folder for each trial."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = {kind: root / kind for kind in ("vision", "speech", "text")}
        for kind, folder in self.data.items():
            folder.mkdir()
            build_shards(folder, kind)  # type: ignore[arg-type]
        self.undisturbed = root / "undisturbed"
        trial = Trial("undisturbed", 0)
        train(trial, f"{self.data['vision']}/shards", self.undisturbed).end(DONE)
        assert not trial.problems, trial.problems

    def shards(self, folder: Path) -> Path:
        """A copy of the shards of images that a trial may damage."""
        return Path(shutil.copytree(self.data["vision"] / "shards", folder / "shards"))

    def finish(self, trial: Trial, shards: str, run: Path, *more: str) -> str:
        """Start the same command until it is done, as the documented loop does; compare with the undisturbed run."""
        said = ""
        for _ in range(4):
            said = train(trial, shards, run, *more).end(DONE, STALLED)
            if trial.codes[-1] != STALLED:
                break
        try:
            assert_same_run(run, self.undisturbed)
        except (AssertionError, OSError, ValueError) as error:
            trial.problems.append(f"lost: another run than the undisturbed one: {str(error)[:300]}")
        return said


Fault = Callable[[Arena, Trial, Path, random.Random], None]
