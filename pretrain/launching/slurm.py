"""Requeueing a Slurm job."""

from __future__ import annotations

import re
import subprocess

from configs.output.lines import say

_ENDING = ("CANCELLED", "COMPLETING", "REQUEUED")


def requeue(job: str) -> None:
    """Put a Slurm job into the queue again, unless Slurm is ending it, and print the outcome.

    A cancelled job is COMPLETING until its processes have ended, and so is a job at its time limit. The two cannot be
    told apart, and a job that its user has cancelled must not come back.
    """
    try:
        state = re.search(r"\bJobState=(\w+)", _scontrol("show", "job", "-o", job))
        if state and state[1] in _ENDING:
            say(f"job {job} is {state[1]}: not put into the queue again (at a time limit: sbatch --signal=USR1@300)")
            return
        _scontrol("requeue", job)
        say(f"job {job} is put into the queue again")
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", "") or error
        say(f"error: job {job} could not be put into the queue again: {str(reason).strip()}; submit it again")


def _scontrol(*arguments: str) -> str:
    command = ["scontrol", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
