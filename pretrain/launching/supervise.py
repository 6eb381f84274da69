"""The supervisor of a run on this node: it starts DeepSpeed's launcher and stays.

The launcher answers signals with a code of its own, gives each rank 30 s one after another, and passes no SIGUSR1 on.
So the supervisor passes notices to stop to the ranks, ends those that wait for one that has died, and gives the exit
code that the ranks left.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil  # type: ignore[import-untyped]

from pretrain.checkpoints.manifest import last_checkpoint
from pretrain.launching import exits
from pretrain.launching.exits import Notices
from pretrain.launching.processes import group, kill, kill_tree, listens, lives, say
from pretrain.launching.slurm import requeue

POLL_S = 0.1
SCAN_S = 1.0
"""Between two looks for the ranks, until they are all there."""
PEERS_S = 15.0
"""How long ranks may outlive one that has ended: they may wait for it in a collective."""
HELPERS_S = 5.0
"""How long the ranks' helper processes may outlive them; they end by themselves."""
RUNNER_S = 10.0
"""How long DeepSpeed's runner may take to end the ranks on other machines."""

AGAIN = "start it again: it resumes from its last checkpoint"


@dataclass(frozen=True)
class Job:
    """What is started on this node."""

    command: list[str]
    """DeepSpeed's launcher."""
    environment: dict[str, str]
    """Its environment."""
    run: Path
    """Run directory."""
    ranks: int
    """Ranks that the launcher starts as its children; 0: they are elsewhere, and see RUN/STOP alone."""
    slurm: str = ""
    """The Slurm job that is put into the queue again when a signal has stopped the run; "" is none."""


def supervise(job: Job) -> int:
    """Run the job to its end; returns its exit code, one of those in `pretrain.launching.exits`."""
    with TemporaryDirectory(prefix="data2vec_") as folder:
        supervisor = Supervisor(job, Path(folder) / "exits")
        code = supervisor.run()
    if job.slurm and code == exits.STOPPED and supervisor.notices.first:
        requeue(job.slurm)
    return code


class Supervisor:
    """Starts a job's launcher in a process group of its own: a terminal's Ctrl-C and timeout(1) reach just this one."""

    def __init__(self, job: Job, notes: Path) -> None:
        self.notices = Notices(self._ask_again)
        self._again = False
        self._job, self._notes = job, notes
        self._launcher = start(job, notes)
        self._ranks: set[psutil.Process] = set()
        self._scan_at, self._stop_at = 0.0, 0.0
        self._passed = False
        self._end_peers_at = math.inf
        self._killed: set[int] = set()
        """Ranks ended here, because they waited for one that had ended."""
        self._code: int | None = None
        """Of a run whose processes were all killed here."""

    def run(self) -> int:
        """Wait for the end of the launcher and of all that it started; returns the exit code."""
        while self._launcher.poll() is None or self._living():
            self._look()
            time.sleep(POLL_S)
        self._end_helpers()
        if not self._job.ranks and self._stop_at:
            (self._job.run / exits.STOP_FILE).unlink(missing_ok=True)
        return self._telling() if self._code is None else self._code

    def _ask_again(self) -> None:
        self._again = True

    def _look(self) -> None:
        """What there is to be done at a moment."""
        if self._code is not None:
            return
        if len(self._ranks) < self._job.ranks and time.monotonic() >= self._scan_at:
            self._find_ranks()
        if self._again:
            say(f"second notice: every process is killed; {last_checkpoint(self._job.run)}")
            self._kill_all(exits.STOPPED)
        elif self.notices.first:
            self._pass_on(self.notices.first.name)
        elif self._launcher.poll() is not None:
            self._pass_on("DeepSpeed's launcher has ended")
        self._end_peers()

    def _find_ranks(self) -> None:
        self._scan_at = time.monotonic() + SCAN_S
        with contextlib.suppress(psutil.Error):
            self._ranks.update(psutil.Process(self._launcher.pid).children())

    def _living(self) -> list[psutil.Process]:
        return [rank for rank in self._ranks if lives(rank)]

    def _pass_on(self, cause: str) -> None:
        """Give the ranks notice, once; end them if they do not listen yet, for then there is nothing to save."""
        if not self._job.ranks:
            self._write_stop_file(cause)
        if self._passed or not self._job.ranks:
            return
        self._passed = True
        self._find_ranks()
        noted = exits.read_notes(self._notes)
        ranks = [rank for rank in self._living() if rank.pid not in noted]
        if len(self._ranks) < self._job.ranks or not all(listens(rank) for rank in ranks):
            say(f"{cause} before training began: every process is ended")
            self._kill_all(exits.STOPPED if self.notices.first else exits.STALLED)
            return
        say(f"{cause}: the ranks finish their step, save and stop; a second signal ends them at once")
        for rank in ranks:
            with contextlib.suppress(psutil.Error):
                rank.send_signal(signal.SIGUSR1)

    def _write_stop_file(self, cause: str) -> None:
        """Create RUN/STOP for rank 0, on another machine, and again where it was taken for one left from before."""
        if time.monotonic() < self._stop_at + SCAN_S:
            return
        path = self._job.run / exits.STOP_FILE
        if not self._stop_at:
            say(f"{cause}: {path} tells the ranks to save and stop; a second signal ends them at once")
        self._stop_at = time.monotonic()
        try:
            path.touch()
        except OSError as error:
            say(f"error: {path} cannot be created ({error}): the ranks are not told; signal again to end them")

    def _end_peers(self) -> None:
        """Kill the ranks that have outlived a failed one by PEERS_S: NCCL's would wait for it for long."""
        living = self._living()
        if not living or len(living) == len(self._ranks):
            return
        noted, now = exits.read_notes(self._notes), time.monotonic()
        if all(noted.get(rank.pid) == exits.DONE for rank in self._ranks if rank not in living):
            return
        self._end_peers_at = min(self._end_peers_at, now + PEERS_S)
        if now >= self._end_peers_at and not self._killed:
            say(f"error: {len(living)} ranks still waited {PEERS_S:g} s after another had ended: killed; {AGAIN}")
            self._killed |= {rank.pid for rank in living}
            for rank in living:
                kill_tree(rank)

    def _kill_all(self, code: int) -> None:
        """End every process at once; ranks on other machines by the runner, which does that on SIGTERM."""
        self._code = code
        if not self._job.ranks:
            self._launcher.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._launcher.wait(RUNNER_S)
        with contextlib.suppress(psutil.Error):
            kill_tree(psutil.Process(self._launcher.pid))
        kill(group(self._launcher.pid))

    def _end_helpers(self) -> None:
        """Wait for the helpers of the ranks, and kill what does not end by itself."""
        patience = time.monotonic() + HELPERS_S
        while members := group(self._launcher.pid):
            if time.monotonic() > patience:
                kill(members)
                return
            time.sleep(POLL_S / 2)

    def _telling(self) -> int:
        """The code of the run, of what the ranks noted and, for those that could not, of the launcher's."""
        noted = exits.read_notes(self._notes)
        codes = set(noted.values())
        if not codes or any(rank.pid not in noted and rank.pid not in self._killed for rank in self._ranks):
            codes.add(self._unnoted())
        return exits.most_telling(codes)

    def _unnoted(self) -> int:
        """What the launcher's code says of a rank that left none."""
        returned = self._launcher.returncode
        killed = -returned if returned < 0 else 256 - returned  # the launcher exits with -N where N killed a rank
        if 0 < killed < signal.NSIG:
            who = "DeepSpeed's launcher" if returned < 0 else "a rank"
            say(f"error: {who} was killed by signal {killed} ({_meaning(killed)}); {AGAIN}")
            return exits.STALLED
        if returned in exits.TELLING and returned != exits.FAILED:
            return returned
        if self._job.ranks and self.notices.first:  # killed by the launcher, which was signalled as well
            say(f"error: a rank has not saved in time; {last_checkpoint(self._job.run)}; {AGAIN}")
            return exits.STALLED
        return exits.FAILED


def start(job: Job, notes: Path) -> subprocess.Popen[bytes]:
    """Start the launcher; when this process is killed, it gets SIGTERM, which is a notice to its ranks."""
    parent = os.getpid()

    def prepare() -> None:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # where all processes of a job get it, it is for the ranks
        exits.signal_on_end_of(parent, signal.SIGTERM)

    sys.stdout.flush()
    environment = {**job.environment, exits.NOTES: str(notes)}
    return subprocess.Popen(job.command, env=environment, stdin=subprocess.DEVNULL, preexec_fn=prepare)


def _meaning(number: int) -> str:
    name = signal.Signals(number).name if number in set(signal.Signals) else "a real-time signal"
    return f"{name}: out of memory?" if number == signal.SIGKILL else name
