"""Leftovers of killed processes: removed if they are ours and dead, and nothing else is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from data_shards import leftovers
from data_shards.leftovers import MARKER, own_name, remove_leftovers, temporary_folder

ROOT = Path(__file__).parents[2]
MAKER = """
import os, time
from data_shards.leftovers import temporary_folder
from data_shards.processes import start_worker_server
with temporary_folder() as folder:
    (folder / "exits").touch()
    lock = start_worker_server("json").Lock()
    print(folder, "/dev/shm/sem." + lock._semlock.name[1:], flush=True)
    time.sleep(60)
"""


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Folders in the places of the temporary folder and of the semaphores."""
    monkeypatch.setattr(leftovers.tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(leftovers, "SEMAPHORES", tmp_path / "shm")
    for name in ("tmp", "shm"):
        (tmp_path / name).mkdir()
    return tmp_path


def dead() -> str:
    """The name of a process that has ended."""
    code = "from data_shards.leftovers import own_name; print(own_name())"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def test_what_a_killed_process_leaves_is_removed_at_the_next_start_and_not_before():
    process = subprocess.Popen([sys.executable, "-c", MAKER], cwd=ROOT, stdout=-1, text=True, start_new_session=True)
    assert process.stdout
    made = [Path(name) for name in process.stdout.readline().split()]
    remove_leftovers()
    assert len(made) == 2 and all(path.exists() for path in made), "it lives"
    everything = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in everything:
        member.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in everything):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert all(path.exists() for path in made), "the tracker was killed, too"
    remove_leftovers()
    assert not any(path.exists() for path in made), "a zombie counts as ended"
    process.communicate()


def test_a_folder_lasts_as_long_as_its_block():
    with temporary_folder() as folder:
        (folder / "exits").touch()
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


def test_only_what_is_ours_and_dead_is_removed(places):
    ended, tmp, shm = dead(), places / "tmp", places / "shm"
    _, process, start, machine = ended.split("_")
    ours = tmp / f"{ended}_abcdefgh"
    kept = [
        tmp / f"{own_name()}_abcdefgh",  # of a living process
        tmp / f"data2vec_{process}_{start}_{'0' * 8}_abcdefgh",  # of another machine or container
        tmp / f"data2vec_{os.getpid()}_{machine}_abcdefgh",  # of another program
        tmp / f"{ended}_results_of_may",
        tmp / "data2vec_mine",
        tmp / f"{ended}_hgfedcba",  # no marker
    ]
    for folder in (ours, *kept):
        folder.mkdir()
        (folder / MARKER).touch()
    (kept[-1] / MARKER).unlink()
    full, linked = tmp / f"{ended}_aaaaaaaa", tmp / f"{ended}_bbbbbbbb"
    full.mkdir()
    (full / "mine.txt").touch()
    (full / MARKER).touch()
    linked.symlink_to(kept[-2])
    (shm / f"sem.{ended}-abcdefgh").touch()
    others = [shm / f"sem.{own_name()}-abcdefgh", shm / "sem.mp-abcdefgh", shm / f"sem.{ended}-abcdefghi"]
    for path in others:
        path.touch()
    remove_leftovers()
    assert not ours.exists() and (full / "mine.txt").exists() and linked.is_symlink()
    assert all(path.exists() for path in kept)
    assert sorted(shm.iterdir()) == sorted(others)


def test_another_owners_is_left_alone(places, monkeypatch):
    folder = places / "tmp" / f"{dead()}_abcdefgh"
    folder.mkdir()
    (folder / MARKER).touch()
    monkeypatch.setattr(leftovers.os, "getuid", lambda: os.geteuid() + 1)
    remove_leftovers()
    assert folder.exists()


def test_an_id_that_is_used_again_is_another_process():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as process:
        time.sleep(0.05)
        mine, other = leftovers._start(os.getpid()), leftovers._start(process.pid)
        assert mine and other and other > mine
        process.communicate(b"\n")
    assert leftovers._start(process.pid) is None
