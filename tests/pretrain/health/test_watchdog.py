"""The watchdog: a phase that stands still ends the process with the stacks of every rank, and code 76."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.schema_running import WatchdogConfig
from pretrain.engine.distributed import PeerLost
from pretrain.health.watchdog import Watchdog
from pretrain.launching import exits

ROOT = Path(__file__).parents[3]
HEAD = """
import sys, time
from pathlib import Path
from configs.schema import WatchdogConfig
from pretrain.health import watchdog
watchdog.TICK_S, watchdog.LOOK_S, watchdog.GRACE_S = 0.05, 0.1, 1.0
rank = int(sys.argv[1])
dog = watchdog.Watchdog(Path("."), WatchdogConfig(), rank)
def stand_still(): time.sleep(60)
"""


def start(folder: Path, rank: int, body: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), exits.NOTES: str(folder / "notes")}
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + body, str(rank)], cwd=folder, env=environment, text=True, stderr=subprocess.PIPE
    )


def stacks(folder: Path) -> dict[str, str]:
    """By rank."""
    return {path.name[-9:-4]: path.read_text() for path in (folder / "hangs").iterdir()}


PHASES = {
    "start": "the start has taken 0 s (watchdog.start_s)",
    "probe": "the probe at step 12 has not got on for 0 s (watchdog.probe_s)",
    "data": "step 13 has waited 0 s for its data (watchdog.data_s)",
    "step": "step 13 has taken 0 s, waiting for other ranks included (watchdog.step_s)",
    "save": "the checkpoint of step 12 has taken 0 s to write (watchdog.save_s)",
}


@pytest.fixture(scope="module")
def stalled(tmp_path_factory) -> dict[str, tuple[Path, subprocess.Popen[str]]]:
    """A process for each phase that stands still, and one whose folder cannot be written; started together."""
    found = {}
    for name in (*PHASES, "no folder"):
        folder = tmp_path_factory.mktemp("stalled")
        if name == "no folder":
            (folder / "hangs").touch()  # in the folder's place
        phase = name if name in PHASES else "step"
        found[name] = folder, start(folder, 3, f"with dog.watch('{phase}', 0.3, 12): stand_still()")
    return found


@pytest.mark.parametrize(("phase", "said"), PHASES.items())
def test_a_phase_that_stands_still_is_named_with_its_key_and_leaves_stacks(stalled, phase, said):
    folder, process = stalled[phase]
    _, errors = process.communicate(timeout=60)
    assert process.returncode == exits.STALLED
    assert errors == (
        f"error (rank 3): {said}; stacks of every rank are in hangs; start it again: it resumes from its last "
        "checkpoint\n"
    )
    (text,) = stacks(folder).values()
    assert text.startswith(f"rank 3, process {process.pid} on ") and said in text and "in stand_still" in text
    assert exits.read_notes(folder / "notes") == {process.pid: exits.STALLED}


def test_a_phase_that_gets_on_is_timed_anew(tmp_path):
    loop = "for _ in range(40): time.sleep(0.05); dog.restart()"
    process = start(tmp_path, 0, f"with dog.watch('probe', 0.5, 12):\n    {loop}\nassert dog.current is None")
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")


def test_the_other_ranks_write_their_stacks_though_their_own_limit_is_far(tmp_path):
    other = start(tmp_path, 1, "with dog.watch('step', 60, 12): Path('there').touch(); stand_still()")
    wait = "while not Path('there').exists(): time.sleep(0.01)\n"
    first = start(tmp_path, 0, wait + "with dog.watch('data', 0.3, 12): stand_still()")
    assert first.wait(60) == exits.STALLED
    assert set(stacks(tmp_path)) == {"00000", "00001"}
    assert "another rank stands still" in stacks(tmp_path)["00001"] and "in stand_still" in stacks(tmp_path)["00001"]
    assert other.poll() is None
    other.kill()
    other.communicate()


def test_phases_that_end_in_time_no_limit_and_what_is_in_no_phase_do_not_end_a_run(tmp_path):
    body = (
        "for step in range(8):\n    with dog.watch('step', 0.5, step): time.sleep(0.15)\n"
        "with dog.watch('save', 0, 8): time.sleep(0.8)\ntime.sleep(0.8)\nprint('done', file=sys.stderr)"
    )
    process = start(tmp_path, 0, body)
    assert process.communicate(timeout=30)[1] == "done\n" and process.returncode == 0
    assert not (tmp_path / "hangs").exists()


def test_a_folder_that_cannot_be_written_does_not_hold_the_end_up(stalled):
    _, process = stalled["no folder"]
    _, errors = process.communicate(timeout=60)
    assert process.returncode == exits.STALLED
    assert "hangs cannot be written" in errors and "in stand_still" in errors


def test_watching_a_phase_takes_microseconds(tmp_path):
    dog = Watchdog(tmp_path, WatchdogConfig(), 0)
    begin = time.perf_counter()
    for step in range(1000):
        with dog.watch("step", 60, step):
            assert dog.current.steps == step
    assert dog.current is None and time.perf_counter() - begin < 0.5, "a thread for each would take longer"
    dog.close()


def test_a_lost_peer_is_told_with_its_step(tmp_path):
    dog = Watchdog(tmp_path, WatchdogConfig(), 0)
    gloo = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:99")
    said = "^step 13: another rank or its node has ended, or the network .* is down"
    with pytest.raises(PeerLost, match=said), dog.watch("step", 60, 12):
        raise gloo
    with pytest.raises(ZeroDivisionError), dog.watch("step", 60, 12):
        1 / 0  # noqa: B018
    dog.close()
