"""Launch plan: the ranks on each node, and the address where they meet."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from configs.schema import PretrainConfig

DEMO_RANKS = 2
MULTI_NODE_PORT = 29500


@dataclass(frozen=True)
class Machine:
    """This node."""

    gpus: list[str]
    """Ids of the visible GPUs. Without any, the run is on CPUs."""
    cores: int
    """Number of cores that this process may use."""
    memory_gib: float = 0.0
    """Memory of the smallest visible GPU in GiB; 0 without any."""


@dataclass(frozen=True)
class Launch:
    """Plan of a launch."""

    hosts: dict[str, int]
    """Host -> number of ranks on it, in the order of the ranks."""
    node: int = 0
    """Index of this node among the hosts."""
    master: str = "127.0.0.1"
    """Address of the first host."""
    port: int = MULTI_NODE_PORT
    """Port of the rendezvous."""
    hostfile: str = ""
    """File of the hosts on which ssh starts the ranks; "" without ssh."""
    ranks: int | None = None
    """Slots used on each host of the hostfile; None for all."""

    @property
    def world(self) -> int:
        """Number of ranks."""
        return sum(self.hosts.values())

    @property
    def local_ranks(self) -> int:
        """Number of ranks on this node."""
        return list(self.hosts.values())[self.node]


def this_machine() -> Machine:
    """GPUs that torch can use and cores that this process may use."""
    import torch  # seconds to import: not for --help and typing errors

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    count = torch.cuda.device_count()
    ids = [part.strip() for part in visible.split(",")] if visible else [str(gpu) for gpu in range(count)]
    memory = min((torch.cuda.get_device_properties(gpu).total_memory for gpu in range(count)), default=0)
    return Machine(gpus=ids[:count], cores=len(os.sched_getaffinity(0)), memory_gib=memory / 2**30)


def plan(config: PretrainConfig, machine: Machine, environment: Mapping[str, str]) -> Launch:
    """Plan the launch for the config's cluster.

    Raises ValueError that names the key and the remedy.
    """
    match config.cluster.kind:
        case "local":
            ranks = _ranks(config, machine)
            return Launch({"localhost": ranks}, port=config.launch.port or free_port())
        case "manual":
            return _manual(config, machine)
        case "slurm":
            return _slurm(config, machine, environment)
        case "hostfile":
            return _hostfile(config)


def _ranks(config: PretrainConfig, machine: Machine) -> int:
    """Number of ranks on this node: `launch.ranks`, else one per GPU, or one on CPUs.

    The demo has at most two on GPUs, and two on CPUs.
    """
    gpus = len(machine.gpus)
    if config.launch.ranks is None:
        return (min(gpus, DEMO_RANKS) or DEMO_RANKS) if config.demo else max(gpus, 1)
    if 0 < gpus < (ranks := config.launch.ranks):
        raise ValueError(f"launch.ranks={ranks}, but this node has {gpus} GPUs: at most launch.ranks={gpus}")
    return config.launch.ranks


def _manual(config: PretrainConfig, machine: Machine) -> Launch:
    cluster = config.cluster
    if cluster.node_rank >= cluster.nodes:
        raise ValueError(f"cluster.node_rank={cluster.node_rank} must be below cluster.nodes={cluster.nodes}")
    if cluster.nodes > 1 and not cluster.master:
        raise ValueError("cluster=manual needs cluster.master=ADDRESS, the address of node 0, on every node")
    hosts = {f"node{node}": _ranks(config, machine) for node in range(cluster.nodes)}
    return Launch(hosts, cluster.node_rank, cluster.master or "127.0.0.1", config.launch.port or MULTI_NODE_PORT)


def _slurm(config: PretrainConfig, machine: Machine, environment: Mapping[str, str]) -> Launch:
    """Plan for an srun step with one task per node. Every task computes the same plan by itself."""
    start = "start it as: srun --ntasks-per-node=1 ./run.sh pretrain cluster=slurm ..."
    if "SLURM_NODEID" not in environment:
        raise ValueError(f"cluster=slurm, but this is not a step of a Slurm job: {start}")
    nodes = int(environment.get("SLURM_STEP_NUM_NODES") or environment["SLURM_NNODES"])
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS") or nodes)
    if tasks != nodes:
        raise ValueError(f"cluster=slurm has {tasks} tasks on {nodes} nodes, and wants one on each: {start}")
    master = config.cluster.master or _first_slurm_host(environment)
    port = config.launch.port or 20000 + int(environment.get("SLURM_JOB_ID", "0")) % 10000
    hosts = {f"node{node}": _ranks(config, machine) for node in range(nodes)}
    return Launch(hosts, int(environment["SLURM_NODEID"]), master, port)


def _first_slurm_host(environment: Mapping[str, str]) -> str:
    """Host of node 0 of this step."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"]
    try:
        shown = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ValueError(f"scontrol cannot tell the first of {nodes} ({error}): give cluster.master=HOST") from None
    return shown.stdout.split()[0]


def _hostfile(config: PretrainConfig) -> Launch:
    """Plan for a file of lines `HOST slots=N`. `launch.ranks` limits the slots used on each host."""
    path = config.cluster.hostfile
    if not path or not Path(path).is_file():
        raise ValueError(f"cluster.hostfile={path}: no such file; give a file of lines 'HOST slots=GPUS'")
    hosts: dict[str, int] = {}
    for line in Path(path).read_text("utf-8", "replace").splitlines():
        match line.split("#")[0].split():
            case []:
                continue
            case [host, slots] if re.fullmatch("slots=0*[1-9][0-9]*", slots) and host not in hosts:
                hosts[host] = int(slots[6:])
            case _:
                raise ValueError(f"cluster.hostfile={path}: bad line '{line}'; name each host once, 'HOST slots=GPUS'")
    if not hosts:
        raise ValueError(f"cluster.hostfile={path} names no host; write lines 'HOST slots=GPUS'")
    if len(hosts) > 1 and not shutil.which("pdsh"):
        raise ValueError("cluster=hostfile needs pdsh on this node: install it, or start each node with cluster=manual")
    if ranks := config.launch.ranks:
        host = min(hosts, key=lambda name: hosts[name])
        if ranks > hosts[host]:
            raise ValueError(f"launch.ranks={ranks}, but {host} has {hosts[host]} slots: give at most as many")
        hosts = dict.fromkeys(hosts, ranks)
    return Launch(hosts, port=config.launch.port or MULTI_NODE_PORT, hostfile=path, ranks=ranks)


def free_port() -> int:
    """TCP port that is free on this machine now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
