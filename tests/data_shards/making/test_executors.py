"""Builds on a dask cluster of real processes: the same bytes as here, whoever is killed."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from configs.command import STALLED, code_of
from configs.schema_commands import BuildConfig
from data_shards.making import executors
from data_shards.making.build import build
from data_shards.making.executors import ClusterLost, check_executor, run_jobs
from tests.data_shards.making.test_build import larger_images
from tests.data_shards.shard_tools import build_folder, make_images, tree

BIN = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "DASK_DISTRIBUTED__WORKER__DAEMON": "False"}


def config(**keys) -> BuildConfig:
    return BuildConfig(source="imagefolder", input="in", output="out", **keys)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def cluster(folder: Path, workers: int):
    """Address of a scheduler, and its worker processes."""
    address = f"tcp://127.0.0.1:{free_port()}"
    host, port = ["--host", "127.0.0.1"], ["--port", address.rpartition(":")[2]]
    quiet = {"cwd": folder, "env": ENVIRONMENT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [subprocess.Popen([BIN / "dask", "scheduler", *host, *port, "--no-dashboard"], **quiet)]
    one = [BIN / "dask", "worker", address, *host, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    started += [subprocess.Popen(one, **quiet) for _ in range(workers)]
    try:
        yield address, started
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_cluster_builds_the_same_bytes_after_the_death_of_a_worker_and_of_the_scheduler(tmp_path):
    images = larger_images(tmp_path / "images", 3000)
    build_folder(images, tmp_path / "here", shard_mb=1)
    keys = [f"input={images}", f"output={tmp_path}/there", "shard_mb=1", "source=imagefolder"]
    with cluster(tmp_path, 2) as (address, (scheduler, *workers)):
        command = [sys.executable, "-m", "data_shards", "build", *keys, "executor=dask", f"address={address}"]
        building = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        wait_for_shards(tmp_path / "there", 2, building)
        workers[0].send_signal(signal.SIGKILL)
        wait_for_shards(tmp_path / "there", 6, building)
        scheduler.send_signal(signal.SIGKILL)
        _, said = building.communicate(timeout=60)
        assert building.returncode == STALLED and "scheduler" in said and "Traceback" not in said, said[-2000:]
    with cluster(tmp_path, 1) as (address, _):
        command[-1] = f"address={address}"
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=100)
        assert done.returncode == 0, done.stderr[-2000:]
    there, here = (tree(tmp_path / name) for name in ("there", "here"))
    assert {name: content for name, content in there.items() if not name.endswith(".lock")} == {
        name: content for name, content in here.items() if not name.endswith(".lock")
    }


def wait_for_shards(output: Path, count: int, building: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while len(list(output.glob("*.tar"))) < count:
        assert building.poll() is None and time.monotonic() < deadline, building.stderr.read()
        time.sleep(0.02)


def test_an_address_where_nobody_listens_is_told_and_may_be_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "_CONNECT_S", 1)
    address = f"tcp://127.0.0.1:{free_port()}"
    images = make_images(tmp_path / "images")
    keys = {"executor": "dask", "address": address}
    with pytest.raises(ClusterLost, match=f"address={address}: no dask scheduler answers") as error:
        build(BuildConfig(source="imagefolder", input=str(images), output=str(tmp_path / "out"), **keys))
    assert code_of(error.value) == STALLED and not list((tmp_path / "out").glob("*.tar*"))


@pytest.mark.parametrize("address", ["what://x:1", "tcp://127.0.0.1:port"])
def test_an_address_that_is_none_is_a_mistake(monkeypatch, address):
    monkeypatch.setattr(executors, "_CONNECT_S", 1)
    with pytest.raises(ValueError, match=f"address={address} is none of a dask scheduler"):
        list(run_jobs(str, [1], config(executor="dask", address=address)))


def test_keys_that_do_not_belong_together_are_mistakes(monkeypatch):
    with pytest.raises(ValueError, match="executor=dask needs the address of a scheduler: address=tcp://HOST:8786"):
        check_executor(config(executor="dask"))
    with pytest.raises(ValueError, match="address=tcp://x:1 is of executor=dask: add it"):
        check_executor(config(address="tcp://x:1"))
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match="executor=dask needs dask: .*pip install 'distributed"):
        check_executor(config(executor="dask", address="tcp://x:1"))


def test_jobs_run_here_by_default():
    assert sorted(run_jobs(abs, [-1, -2, 3], config(workers=1))) == [1, 2, 3]
