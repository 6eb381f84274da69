"""Command line of DeepSpeed's launcher, and environment of the ranks."""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import re
import shlex
import socket
import sys

from configs.command import IDLE_THREADS
from configs.schema import PretrainConfig
from pretrain.launching.interfaces import GLOO_INTERFACE, interfaces
from pretrain.launching.plan import MULTI_NODE_PORT, Launch, Machine

UNUSED_ADDRESS = "192.0.2.1"
"""Address that no host has (RFC 5737). The route to it is the one out of the network."""

_EXPORTED = ("MLFLOW", "PYTHON", "MV2", "UCX", "NCCL", "LD_LIBRARY", "PATH")
"""Beginnings of the names of variables that DeepSpeed's runner passes to other hosts."""

# Critical messages only: the launcher's errors repeat exit codes, which the ranks and the supervisor explain.
MODULE = ["--no_local_rank", "--log_level=critical", "--module", "pretrain.train"]


def command_line(launch: Launch, machine: Machine, overrides: list[str]) -> list[str]:
    """Command that starts the ranks. overrides: arguments of pretrain.train.

    Raises ValueError if pdsh cannot carry one of them.
    """
    python = [sys.executable, "-u", "-m"]
    if not launch.hostfile:
        node = [f"--node_rank={launch.node}", f"--master_addr={launch.master}", f"--master_port={launch.port}"]
        world = f"--world_info={_world_info(launch, machine)}"
        return [*python, "deepspeed.launcher.launch", world, *node, *MODULE, *overrides]
    hosts = [f"--hostfile={launch.hostfile}", f"--master_port={launch.port}"]
    hosts += [f"--num_gpus={launch.ranks}"] if launch.ranks else []
    if len(launch.hosts) > 1:
        _check_unquoted()
        overrides = [_quote_for_ssh(override) for override in overrides]
    return [*python, "deepspeed.launcher.runner", *hosts, *MODULE, *overrides]


def _world_info(launch: Launch, machine: Machine) -> str:
    """Launcher's table of hosts and their devices: base64 of JSON."""
    devices: dict[str, list] = {host: list(range(ranks)) for host, ranks in launch.hosts.items()}
    if machine.gpus:
        devices[list(devices)[launch.node]] = machine.gpus[: launch.local_ranks]
    return base64.urlsafe_b64encode(json.dumps(devices).encode()).decode()


def _quote_for_ssh(override: str) -> str:
    """Quote for pdsh, which replaces %n, %h and %u, and for the remote shell, which expands braces.

    DeepSpeed quotes only blanks.
    """
    if " " in override:
        raise ValueError(f"'{override}': blanks cannot be passed to other hosts; use a path without, or cluster=manual")
    return shlex.quote(override).replace("%", "%%")


def _check_unquoted() -> None:
    """Raise ValueError for what DeepSpeed passes to other hosts, if pdsh or the remote shell would change it."""
    for what, path in {"interpreter": sys.executable, "working directory": os.getcwd()}.items():
        if shlex.quote(path) != path or "%" in path:
            plain = "letters, digits and /._- alone"
            raise ValueError(f"{path}: the {what} cannot be passed to other hosts; use {plain}, or cluster=manual")
    for name, value in os.environ.items():
        if name.startswith(_EXPORTED) and re.search('%[nhu%]|["$`\\\\]', value):
            raise ValueError(
                f"{name}={value}: % and quotes cannot be passed to other hosts; unset it, or cluster=manual"
            )


def rank_environment(config: PretrainConfig, launch: Launch, machine: Machine) -> dict[str, str]:
    """Environment of this process, plus the variables for the ranks."""
    threads = config.launch.threads or max(1, machine.cores // launch.local_ranks)
    ours = {"OMP_NUM_THREADS": str(threads)}
    if not machine.gpus:
        ours["DS_ACCELERATOR"] = "cpu"
    if len(launch.hosts) > 1 and not launch.hostfile and GLOO_INTERFACE not in os.environ:
        interface = interface_to(launch.master) or interface_to(UNUSED_ADDRESS)
        ours |= {GLOO_INTERFACE: interface} if interface else {}
    return {**IDLE_THREADS, **os.environ, **ours}


def interface_to(host: str) -> str | None:
    """Name of the network interface through which this node reaches `host`; None without a route.

    None also for loopback, to which a host often resolves its own name: other hosts cannot reach it.
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(host, MULTI_NODE_PORT, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(place)  # chooses the route; a datagram socket sends nothing here
            address = probe.getsockname()[0]
    except OSError:
        return None
    named = {own: name for name, addresses in interfaces().items() for own in addresses}
    return None if ipaddress.ip_address(address).is_loopback else named.get(address)
