"""Helper processes: results as they come, the first error ends the rest, and none outlives the one that started it."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from data_shards import processes
from data_shards.processes import ProcessLost, map_unordered, without_main

ROOT = Path(__file__).parents[2]


def square(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


def refuse(number: int) -> int:
    if number == 3:
        raise ValueError("not three")
    return number


def test_one_worker_or_one_job_stays_in_this_process():
    assert list(map_unordered(square, range(4), 1)) == [(i**2, os.getpid()) for i in range(4)]
    assert list(map_unordered(square, [5], 8)) == [(25, os.getpid())]
    assert list(map_unordered(square, [], None)) == []


def test_several_workers_do_every_job_once_elsewhere():
    found = list(map_unordered(square, range(6), 2))
    assert sorted(result for result, _ in found) == [i**2 for i in range(6)]
    assert os.getpid() not in {process for _, process in found}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_error_of_a_job_is_raised_here(workers):
    with pytest.raises(ValueError, match="^not three$"):
        list(map_unordered(refuse, range(6), workers))


def test_workers_without_room_for_their_semaphores_name_shared_memory(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(processes, "ProcessPoolExecutor", full)
    with pytest.raises(ValueError, match="no room in /dev/shm for a semaphore: .*--shm-size=1g"):
        list(map_unordered(refuse, range(6), 2))


def end(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_told_with_the_remedy():
    with pytest.raises(ProcessLost, match="^a helper process has ended: .* lower workers"):
        list(map_unordered(end, range(2), 2))


TRACKED = """
import os
from data_shards.processes import start_worker_server
context = start_worker_server("json")
semaphore = context.Lock()
print(semaphore._semlock.name, os.environ["PYTHONWARNINGS"], flush=True)
os._exit(0)
"""


def test_semaphores_of_a_process_that_ends_at_once_are_removed_without_a_word():
    environment = {**os.environ, "PYTHONWARNINGS": "default"}
    ended = subprocess.run([sys.executable, "-c", TRACKED], cwd=ROOT, env=environment, capture_output=True, text=True)
    name, warnings = ended.stdout.split()
    assert (ended.stderr, warnings) == ("", "default")
    deadline = time.monotonic() + 10
    while Path(f"/dev/shm/sem.{name[1:]}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_main_module_is_hidden_and_put_back():
    main = sys.modules["__main__"]
    with pytest.raises(KeyError), without_main():
        assert sys.modules["__main__"] is not main and not hasattr(sys.modules["__main__"], "__file__")
        raise KeyError
    assert sys.modules["__main__"] is main


CHILD = """
import multiprocessing, os, sys, time
from data_shards.processes import end_with_parent, without_main

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    def child():
        end_with_parent()
        print(os.getpid(), flush=True)
        time.sleep(60)
    context.Process(target=child).start()
    time.sleep(60)
"""


def test_a_helper_ends_with_a_killed_parent():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        helper = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    deadline = time.monotonic() + 20
    while helper.is_running() and helper.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the helper outlives its parent"
        time.sleep(0.05)
