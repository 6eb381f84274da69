"""Real processes for the integration tests: ranks under the deepspeed launcher."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from pretrain.launching.plan import free_port

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    **os.environ,
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "PYTHONWARNINGS": "ignore",
    "OMPI_COMM_WORLD_LOCAL_RANK": "7",  # as within mpirun and torchrun, whose numbers are not those of our ranks
    "PMI_RANK": "7",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}


def launcher(ranks: int, *arguments: str) -> list[str]:
    """The launcher's command for a script (or `--module name`) on `ranks` gloo ranks."""
    python = [sys.executable, "-m", "deepspeed.launcher.runner"]
    return [*python, f"--num_gpus={ranks}", f"--master_port={free_port()}", "--no_local_rank", *arguments]


def launch(ranks: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the launcher and wait for it."""
    command = launcher(ranks, *arguments)
    return subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=600)


def train_engines(folder: Path, ranks: int, jobs: list[dict]) -> list[dict]:
    """`engine_worker.run` of every job, in one launch."""
    file = folder / f"jobs_{ranks}.json"
    file.write_text(json.dumps(jobs))
    done = launch(ranks, str(ROOT / "tests/integration/engine_worker.py"), str(file))
    result = file.with_suffix(".result.json")
    assert result.is_file(), done.stdout[-3000:] + done.stderr[-6000:]
    return json.loads(result.read_text())


def session_processes(session: int) -> list[psutil.Process]:
    """The living processes of a session: of a run started in its own, supervisor, launcher, ranks and workers."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def signal_all(processes: list[psutil.Process], number: signal.Signals) -> None:
    """Signal each that is still there."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
