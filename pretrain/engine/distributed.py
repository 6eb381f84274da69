"""Processes and devices: the process group, this rank's device, and a few collectives."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor
from torch import distributed as dist
from torch._C._distributed_c10d import TCPStore

from configs.command import Temporary

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns, at its import, of a guess

T = TypeVar("T")

LOOPBACK = "127.0.0.1"
_OTHER_LAUNCHERS = ("OMPI_", "PMI_", "PMIX_", "TORCHELASTIC_")
_PEER_LOST_WORDS = (
    "gloo/transport",
    "Connection closed by peer",
    "Connection reset",
    "Broken pipe",
    "imed out",
    "NCCL",
)
"""Words in the message of a collective's RuntimeError if a peer is gone. gloo has no error class for it."""


class PeerLost(RuntimeError, Temporary):
    """Another rank or its node has ended, or the network between them is down."""


def peer_lost(error: BaseException, step: int | None = None) -> PeerLost | None:
    """PeerLost for an error that shows that a peer is gone; None for other errors. step: the step it happened in."""
    if isinstance(error, PeerLost):
        return error
    by_text = isinstance(error, RuntimeError) and any(sign in str(error) for sign in _PEER_LOST_WORDS)
    if not by_text and not isinstance(error, dist.DistError):
        return None
    return PeerLost(
        f"{'' if step is None else f'step {step}: '}another rank or its node has ended, or the network between them is "
        f"down: see the log of that rank. Start it again: it resumes from its last checkpoint ({_one_line(error)})"
    )


def _one_line(error: BaseException) -> str:
    """Message of the error on one line, without gloo's source location and advice."""
    text = " ".join(str(error).split()).partition(". This is typically")[0]
    return re.sub(r"^\[\S*gloo/transport\S*\]", "gloo:", text)[:300]


def start(timeout: timedelta = timedelta(minutes=30), chosen_port: bool = True) -> torch.device:
    """Join the process group that the launcher's environment describes, and return this rank's device.

    Without a launcher this process is alone. Raises ValueError if a chosen port is taken, PeerLost if another one is or
    if the ranks do not meet within `timeout`.
    """
    _forget_other_launchers()
    if "RANK" not in os.environ:
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    try:
        return _join(int(os.environ.get("LOCAL_RANK", "0")), timeout)
    except (dist.DistError, OSError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        taken = getattr(error, "errno", None) == errno.EADDRINUSE or "EADDRINUSE" in str(error)
        if taken and chosen_port:
            raise ValueError(f"{where} is in use: give another launch.port=PORT, the same on every node") from None
        if taken:
            raise PeerLost(f"{where} was free a moment ago and is in use now: start it again") from None
        remedy = "see whether each node was started with the same cluster.nodes and launch.ranks, and reaches it"
        raise PeerLost(f"the ranks did not meet at {where}: {remedy} ({_one_line(error)})") from error


def _forget_other_launchers() -> None:
    """Remove the variables of mpirun, srun and torchrun, from within which a run may be started.

    They number the processes of that launcher. DeepSpeed and torch would read them beside the variables of this run.
    """
    for name in [name for name in os.environ if name.startswith(_OTHER_LAUNCHERS)]:
        del os.environ[name]


def _join(local_rank: int, timeout: timedelta) -> torch.device:
    import deepspeed  # only here: commands that read checkpoints use the collectives below without it

    if torch.cuda.is_available():
        device, backend = torch.device("cuda", local_rank), "nccl"
        torch.cuda.set_device(device)
        torch.backends.cudnn.allow_tf32 = False  # precision=fp32 means it for convolutions too, as for products
    else:
        device, backend = torch.device("cpu"), "gloo"
        # Else DeepSpeed compiles a shared-memory all-reduce, for most of a minute, that only its inference uses.
        deepspeed.ops.__dict__.setdefault("__compatible_ops__", {})["deepspeed_shm_comm"] = False
    if _is_loopback(os.environ["MASTER_ADDR"]):
        _meet_on_loopback(backend, device, timeout)
    deepspeed.init_distributed(backend, timeout=timeout, verbose=False)
    return device


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host.startswith("127.") or host == "::1"


def _meet_on_loopback(backend: str, device: torch.device, timeout: timedelta) -> None:
    """Make the process group of ranks that are all on this machine; nothing of it listens on another interface.

    torch's own store would listen on all of them, and gloo and NCCL on that of the host's name.
    """
    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address == LOOPBACK for entry in entries):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")  # else a prefix
    rank, world, port = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    listener = None
    if rank == 0:
        opened = socket.create_server((LOOPBACK, port))
        port, listener = opened.getsockname()[1], opened.detach()
    store = TCPStore(LOOPBACK, port, world, rank == 0, timeout, master_listen_fd=listener)
    bound = device if backend == "nccl" and world > 1 else None  # as DeepSpeed does
    dist.init_process_group(backend, timeout=timeout, world_size=world, rank=rank, store=store, device_id=bound)


def rank() -> int:
    """Rank of this process; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def all_sum(tensor: Tensor) -> Tensor:
    """Sum `tensor` over ranks, in place, and return it."""
    if world() > 1:
        dist.all_reduce(tensor)
    return tensor


def largest(value: float, device: torch.device) -> float:
    """Largest of all ranks' values, on every rank."""
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    if world() > 1:
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return float(tensor)


def broadcast(value: Any) -> Any:
    """Rank 0's picklable `value`, on every rank."""
    box = [value]
    if world() > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: object) -> list:
    """Every rank's picklable `value`, on every rank, in the order of the ranks."""
    values = [value] * world()
    if world() > 1:
        dist.all_gather_object(values, value)
    return values


def everywhere(function: Callable[[], T]) -> list[T]:
    """Every rank's result of `function`, on every rank. An error of its user or its files on one rank is raised on all.

    So no rank waits for one that has failed.
    """
    results = gather(_outcome(function))
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


def on_first(function: Callable[[], T]) -> T:
    """Rank 0's result of `function`, or its error, on every rank."""
    result = broadcast(_outcome(function) if rank() == 0 else None)
    if isinstance(result, Exception):
        raise result
    return result


def _outcome(function: Callable[[], T]) -> T | Exception:
    try:
        return function()
    except (OSError, ValueError) as error:
        return error


def barrier() -> None:
    """Wait for every rank."""
    if world() > 1:
        dist.barrier()
