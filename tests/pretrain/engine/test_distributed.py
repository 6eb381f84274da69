"""Collectives of two ranks and of one alone, and what their errors mean."""

import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed as dist

from pretrain.engine import distributed
from pretrain.engine.distributed import PeerLost, peer_lost

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")
GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:552] Connection closed by peer [10.0.0.1]:42. This is typically"


@pytest.mark.parametrize(
    "error",
    [
        dist.DistNetworkError("x"),
        *map(RuntimeError, (GLOO, "gloo/transport", "Connection reset", "Broken pipe", "Timed out", "NCCL")),
        RuntimeError("Connection closed by peer [10.0.0.1]:42"),
    ],
)
def test_errors_of_a_lost_peer_are_told_from_others(error: Exception) -> None:
    lost = peer_lost(error, 7)
    assert lost and str(lost).startswith("step 7: another rank or its node has ended")
    assert "\n" not in str(lost) and "third_party" not in str(lost) and "typically" not in str(lost)
    assert peer_lost(lost) is lost


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError("timed out"), KeyError("NCCL")])
def test_errors_of_other_kinds_are_not(error: Exception) -> None:
    assert peer_lost(error) is None


def test_a_process_alone_has_every_collective() -> None:
    assert (distributed.rank(), distributed.world()) == (0, 1)
    assert distributed.all_sum(torch.tensor([1.0, 2.0])).tolist() == [1, 2]
    assert distributed.largest(1.5, CPU) == 1.5
    assert distributed.broadcast({"a": 1}) == {"a": 1} and distributed.gather("x") == ["x"]
    assert distributed.everywhere(lambda: 7) == [7] and distributed.on_first(lambda: 7) == 7
    distributed.barrier()


RANK = """
import os, psutil, torch
from pretrain.engine import distributed as d

device = d.start()
rank = d.rank()
summed = d.all_sum(torch.tensor([1.0, rank])).tolist()
found = [d.world(), summed, d.largest(1 + rank / 2, device), d.broadcast([rank, "a"]), d.gather(f"of {rank}")]
for collective in (d.everywhere, d.on_first):
    try:
        collective(lambda: open("/none") if rank == (collective is d.everywhere) else 7)
    except FileNotFoundError:  # of one rank, raised on both
        found.append(collective.__name__)
d.barrier()
assert found == [2, [2.0, 1.0], 1.5, [0, "a"], ["of 0", "of 1"], "everywhere", "on_first"], found
listening = [c.laddr.ip for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN]
assert set(listening) == {"127.0.0.1"}, listening
os._exit(0)
"""


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def start(rank: int, port: str, code: str = RANK, world: int = 2) -> subprocess.Popen[str]:
    named = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = {**os.environ, **{name: str(value) for name, value in named.items()}, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)


def test_two_ranks_agree() -> None:
    port = free_port()
    for process in [start(rank, port) for rank in range(2)]:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors[-2000:]


def test_a_port_that_is_taken_is_a_mistake_and_a_rank_that_never_comes_a_lost_peer(monkeypatch) -> None:
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        monkeypatch.setenv("MASTER_PORT", str(port := listener.getsockname()[1]))
        with pytest.raises(ValueError, match=f"127.0.0.1:{port} is in use: give another launch.port=PORT"):
            distributed.start()
        with pytest.raises(PeerLost, match=f"127.0.0.1:{port} was free a moment ago"):
            distributed.start(chosen_port=False)
    monkeypatch.setenv("MASTER_PORT", free_port())
    with pytest.raises(PeerLost, match="the ranks did not meet at 127.0.0.1:.*whether each node was started"):
        distributed.start(timedelta(seconds=1))
    assert not dist.is_initialized()


def test_the_numbers_of_another_launcher_are_forgotten(monkeypatch) -> None:
    names = ("OMPI_COMM_WORLD_LOCAL_RANK", "PMI_RANK", "PMIX_RANK", "TORCHELASTIC_USE_AGENT_STORE")
    environment = {**dict.fromkeys(names, "7"), "PATH": "/bin", "COMPILER": "x"}
    monkeypatch.setattr(distributed.os, "environ", environment)
    distributed._forget_other_launchers()
    assert environment == {"PATH": "/bin", "COMPILER": "x"}
