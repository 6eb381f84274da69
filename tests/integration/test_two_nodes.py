"""Two hosts, made as network namespaces that a cable joins: train, cut it, and go on with one host alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pretrain.launching.exits import DONE, STALLED
from tests.integration.made_up import tiny
from tests.integration.processes import ENVIRONMENT, ROOT, session_processes, signal_all
from tests.integration.real_shards import build_shards
from tests.integration.runs import rows

pytestmark = pytest.mark.slow

ADDRESSES = ("10.213.7.1", "10.213.7.2")
LIMIT_S = 8


class Hosts:
    """Two network namespaces and the veth pair between them."""

    def __init__(self) -> None:
        self.names = [f"d2v{os.getpid()}n{node}" for node in range(2)]
        self.ends = [f"v{os.getpid()}n{node}" for node in range(2)]

    def __enter__(self) -> Hosts:
        try:
            for name in self.names:
                self._ip("netns", "add", name)
            self._ip("link", "add", self.ends[0], "type", "veth", "peer", "name", self.ends[1])
            for name, end, address in zip(self.names, self.ends, ADDRESSES, strict=True):
                self._ip("link", "set", end, "netns", name)
                self._ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
                for device in ("lo", end):
                    self._ip("-n", name, "link", "set", device, "up")
        except subprocess.CalledProcessError as error:
            self.__exit__()
            pytest.skip(f"no network namespaces can be made here: {error.stderr.strip()}")
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)

    def cut(self) -> None:
        """Nothing crosses any more, and nobody is told."""
        self._ip("-n", self.names[1], "link", "set", self.ends[1], "down")

    def start(self, node: int, arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
        """The documented command on a host."""
        command = [sys.executable, "-m", "pretrain.launch", *arguments, f"cluster.node_rank={node}"]
        with log.open("wb") as file:
            command = ["ip", "netns", "exec", self.names[node], *command]
            return subprocess.Popen(
                command, env=ENVIRONMENT, cwd=ROOT, stdout=file, stderr=file, start_new_session=True
            )

    @staticmethod
    def _ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2's ip (Debian: apt-get install iproute2)")
    with Hosts() as hosts:
        yield hosts


def overrides(shards: Path, run: Path, *more: str) -> list[str]:
    return [
        *tiny("vision", 16, 4), f"data.shards={shards}/train-*.tar", f"run.dir={run}", "log.every=1",
        "train.steps=100000", "schedule.steps=200", "checkpoint.every=5", "precision=fp32", "data.workers=1",
        "log.peak_tflops=1", "deepspeed=zero2", "launch.ranks=1", f"watchdog.step_s={LIMIT_S}", *more,
    ]  # fmt: skip


def test_a_cut_link_ends_both_sides_and_one_host_goes_on_alone(hosts, tmp_path):
    shards, run = build_shards(tmp_path, "vision"), tmp_path / "run"
    both = overrides(shards, run, "cluster=manual", "cluster.nodes=2", f"cluster.master={ADDRESSES[0]}")
    logs = [tmp_path / f"node{node}.log" for node in range(2)]
    processes = [hosts.start(node, both, log) for node, log in enumerate(logs)]
    try:
        deadline = time.monotonic() + 120
        while not (run / "checkpoints/latest").exists():
            assert all(process.poll() is None for process in processes), [log.read_text()[-3000:] for log in logs]
            assert time.monotonic() < deadline, [log.read_text()[-3000:] for log in logs]
            time.sleep(0.05)
        hosts.cut()
        began = time.monotonic()
        codes = [process.wait(LIMIT_S + 40) for process in processes]
        assert time.monotonic() - began < LIMIT_S + 30
    finally:
        for process in processes:
            signal_all(session_processes(process.pid), signal.SIGKILL)
    said = [log.read_text() for log in logs]
    assert codes == [STALLED, STALLED], said
    for node, text in enumerate(said):
        assert f"error (rank {node}): step " in text, text
        assert "(watchdog.step_s); stacks of every rank are in" in text and "start it again" in text
        assert "Traceback" not in text
    assert {path.name[-9:-4] for path in (run / "hangs").iterdir()} == {"00000", "00001"}
    reached = rows(run)[-1]["step"]
    alone = overrides(shards, run, f"train.steps={reached + 10}")
    command = [sys.executable, "-m", "pretrain.launch", *alone]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == DONE, done.stderr[-4000:]
    assert "was written by 2 ranks in ZeRO 2: loading it into 1 rank in ZeRO 2" in done.stderr
    assert [row["step"] for row in rows(run)] == list(range(1, reached + 11))
