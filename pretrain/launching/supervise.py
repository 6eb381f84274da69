"""Supervisor of a run on this node: starts DeepSpeed's launcher and waits for its end.

DeepSpeed's launcher answers a signal with an exit code of its own. The launcher gives the ranks 30 s each, one after
another, and does not forward SIGUSR1. So the supervisor forwards notices to the ranks itself. The supervisor kills
ranks that wait for a dead one, and returns the exit code that the ranks left.
"""

from __future__ import annotations

import contextlib
import math
import signal
import subprocess
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from configs.output.lines import say
from configs.output.stages import stage
from data_shards.leftovers import temporary_folder
from pretrain.launching import exits
from pretrain.launching.exits import Notices
from pretrain.launching.job import Job, start
from pretrain.launching.processes import group, kill, kill_tree, listens, lives
from pretrain.launching.slurm import requeue

POLL_S = 0.1
SCAN_S = 1.0
"""Seconds between two scans for the ranks, until all are found."""
PEERS_S = 15.0
"""Seconds that the other ranks may run on after one has ended. They may be waiting for it in a collective."""
HELPERS_S = 5.0
"""Seconds that helper processes may outlive their ranks. They normally end by themselves."""
RUNNER_S = 10.0
"""Seconds that DeepSpeed's runner may take to end the ranks on other machines."""

AGAIN = "start it again: it resumes from its last checkpoint"


def supervise(job: Job) -> int:
    """Run the job to its end and return its exit code, one of `pretrain.launching.exits`."""
    with temporary_folder() as folder:
        supervisor = Supervisor(job, folder / "exits")
        code = supervisor.run()
    if job.slurm and code == exits.STOPPED and supervisor.notices.first:
        requeue(job.slurm)
    return code


class Supervisor:
    """Starts a job's launcher in a separate process group, so that Ctrl-C and timeout(1) reach only the supervisor."""

    def __init__(self, job: Job, notes: Path) -> None:
        self.notices = Notices(self._note_second)
        self._second_notice = False
        self._job, self._notes = job, notes
        self._launcher = start(job, notes)
        self._ranks: set[psutil.Process] = set()
        self._scan_at, self._stop_file_at = 0.0, 0.0
        self._notified = False
        self._end_peers_at = math.inf
        self._killed: set[int] = set()
        """Process ids of ranks that were killed here because another rank had ended."""
        self._code: int | None = None
        """Exit code of the run if all of its processes were killed here."""

    def run(self) -> int:
        """Wait for the launcher and everything it started to end; return the exit code."""
        with stage(f"starting {self._job.ranks} ranks", self._job.shown and self._job.ranks > 0):
            while self._launcher.poll() is None and not self._started():
                self._react()
                time.sleep(POLL_S)
        while self._launcher.poll() is None or self._living():
            self._react()
            time.sleep(POLL_S)
        self._end_helpers()
        if not self._job.ranks and self._stop_file_at:
            (self._job.run / exits.STOP_FILE).unlink(missing_ok=True)
        return self._exit_code() if self._code is None else self._code

    def _started(self) -> bool:
        """True if every rank listens to notices, and rank 0 shows what goes on; and with a notice to tell of."""
        told = self._notified or self._code is not None or not self._job.ranks
        return told or (len(self._ranks) >= self._job.ranks and all(map(listens, self._ranks)))

    def _note_second(self) -> None:
        self._second_notice = True

    def _react(self) -> None:
        """React once to notices, to the end of the launcher and to the end of a rank."""
        if self._code is not None:
            return
        if len(self._ranks) < self._job.ranks and time.monotonic() >= self._scan_at:
            self._find_ranks()
        if self._second_notice:
            say(f"second notice: every process is killed; {self._job.last_checkpoint()}")
            self._kill_all(exits.STOPPED)
        elif self.notices.first:
            self._notify_ranks(self.notices.first.name, self.notices.first)
        elif self._launcher.poll() is not None:
            self._notify_ranks("DeepSpeed's launcher has ended", signal.SIGUSR1)
        self._end_peers()

    def _find_ranks(self) -> None:
        self._scan_at = time.monotonic() + SCAN_S
        with contextlib.suppress(psutil.Error):
            self._ranks.update(psutil.Process(self._launcher.pid).children())

    def _living(self) -> list[psutil.Process]:
        return [rank for rank in self._ranks if lives(rank)]

    def _notify_ranks(self, cause: str, number: signal.Signals) -> None:
        """Send the ranks a signal, once. Ranks without handlers have nothing to save yet: they are killed."""
        if not self._job.ranks:
            self._write_stop_file(cause)
        if self._notified or not self._job.ranks:
            return
        self._notified = True
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
                rank.send_signal(number)

    def _write_stop_file(self, cause: str) -> None:
        """Create RUN/STOP for rank 0 on another machine.

        It is created again each SCAN_S: rank 0 may have removed it as a leftover of an earlier run.
        """
        if time.monotonic() < self._stop_file_at + SCAN_S:
            return
        path = self._job.run / exits.STOP_FILE
        if not self._stop_file_at:
            say(f"{cause}: {path} tells the ranks to save and stop; a second signal ends them at once")
        self._stop_file_at = time.monotonic()
        try:
            path.touch()
        except OSError as error:
            say(f"error: {path} cannot be created ({error}): the ranks are not told; signal again to end them")

    def _end_peers(self) -> None:
        """Kill ranks PEERS_S after another rank ended other than with DONE. In NCCL they would wait much longer."""
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
        """Kill every process at once. The runner ends ranks on other machines when it gets SIGTERM."""
        self._code = code
        if not self._job.ranks:
            self._launcher.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._launcher.wait(RUNNER_S)
        with contextlib.suppress(psutil.Error):
            kill_tree(psutil.Process(self._launcher.pid))
        kill(group(self._launcher.pid))

    def _end_helpers(self) -> None:
        """Wait for the helper processes of the ranks; kill those that do not end by themselves."""
        patience = time.monotonic() + HELPERS_S
        while members := group(self._launcher.pid):
            if time.monotonic() > patience:
                kill(members)
                return
            time.sleep(POLL_S / 2)

    def _exit_code(self) -> int:
        """Derive the run's code from the ranks' notes, and from the launcher's code for ranks without a note."""
        noted = exits.read_notes(self._notes)
        codes = set(noted.values())
        if not codes or any(rank.pid not in noted and rank.pid not in self._killed for rank in self._ranks):
            codes.add(self._code_from_launcher())
        return exits.run_code(codes)

    def _code_from_launcher(self) -> int:
        """Derive the code of a rank that recorded none from the launcher's."""
        returned = self._launcher.returncode
        killed = -returned if returned < 0 else 256 - returned  # the launcher exits with -N where N killed a rank
        if 0 < killed < signal.NSIG:
            who = "DeepSpeed's launcher" if returned < 0 else "a rank"
            say(f"error: {who} was killed by signal {killed} ({_signal_text(killed)}); {AGAIN}")
            return exits.STALLED
        if returned in exits.PRECEDENCE and returned != exits.FAILED:
            return returned
        if self._job.ranks and self.notices.first:  # killed by the launcher, which was signalled as well
            say(f"error: a rank has not saved in time; {self._job.last_checkpoint()}; {AGAIN}")
            return exits.STALLED
        return exits.FAILED


def _signal_text(number: int) -> str:
    name = signal.Signals(number).name if number in set(signal.Signals) else "a real-time signal"
    return f"{name}: out of memory?" if number == signal.SIGKILL else name
