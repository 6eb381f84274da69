"""Processes and devices: the process group, this rank's device, and the few collectives the loop needs."""

from __future__ import annotations

# ruff: noqa: E402
import os
from datetime import timedelta
from typing import Any

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns, at import, that it has to guess

import deepspeed
from torch import Tensor
from torch import distributed as dist


def start(timeout: timedelta = timedelta(minutes=30)) -> torch.device:
    """Join the process group that the launcher's environment describes (alone, without one) and return the device."""
    if "RANK" not in os.environ:
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        deepspeed.init_distributed("nccl", timeout=timeout, verbose=False)
    else:
        device = torch.device("cpu")
        # DeepSpeed would compile a shared-memory all-reduce at first use, most of a minute; only its inference uses it.
        deepspeed.ops.__dict__.setdefault("__compatible_ops__", {})["deepspeed_shm_comm"] = False
        deepspeed.init_distributed("gloo", timeout=timeout, verbose=False)
    return device


def rank() -> int:
    """This process's rank; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """The number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def all_sum(tensor: Tensor) -> Tensor:
    """Sum over ranks, in place; returns `tensor`."""
    if world() > 1:
        dist.all_reduce(tensor)
    return tensor


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


def barrier() -> None:
    """Wait for every rank."""
    if world() > 1:
        dist.barrier()
