"""What `./run.sh pretrain` runs: check the config, make the demo's shards, start one process per rank, supervise them.

The processes are started by DeepSpeed's launcher: directly by its per-node half, or, for a hostfile, by its runner,
which reaches the other nodes through pdsh. The runner is left out where it is not needed: it exits with 0 when the
node's launcher is killed.
"""

from __future__ import annotations

import base64
import fcntl
import ipaddress
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]

from configs.checks import check, resolve_precision
from configs.command import fail
from configs.compose import compose_pretrain, print_help
from configs.keys import split_override
from configs.schema import Modality, PretrainConfig
from data_shards.index_file import Folders, read_folder_index
from data_shards.mixture import mixture_of
from data_shards.packages import cache_folder
from data_shards.patterns import resolve
from data_shards.storage import storage_of
from pretrain.exits import DONE, MISTAKE, STOPPED
from pretrain.metrics import read_rows
from pretrain.supervise import Job, latest_checkpoint, supervise

DEMO_RANKS = 2
MULTI_NODE_PORT = 29500
GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
"""Environment variable; without it gloo takes the address of the host's name, which is often loopback."""
BEYOND = "192.0.2.1"
"""An address that is nowhere (RFC 5737): the way to it is the way out."""
# Its only errors are the codes of ranks with their whole command line: ranks and supervisor say what they mean.
MODULE = ["--no_local_rank", "--log_level=critical", "--module", "pretrain.train"]


@dataclass(frozen=True)
class Machine:
    """This node."""

    gpus: list[str]
    """Ids of the visible GPUs; none: the run is on CPUs."""
    cores: int
    """Cores that this process may use."""


@dataclass(frozen=True)
class Launch:
    """Who runs where."""

    hosts: dict[str, int]
    """Host -> ranks on it, in the order of the ranks."""
    node: int = 0
    """This node's place among the hosts."""
    master: str = "127.0.0.1"
    """Address of the first host."""
    port: int = MULTI_NODE_PORT
    """Port of the rendezvous."""
    hostfile: str = ""
    """Started through ssh on the hosts of this file."""
    ranks: int | None = None
    """How many slots of each of those hosts are used; None: all."""

    @property
    def world(self) -> int:
        """Number of ranks."""
        return sum(self.hosts.values())

    @property
    def local_ranks(self) -> int:
        """Number of ranks on this node."""
        return list(self.hosts.values())[self.node]


def this_machine() -> Machine:
    """GPUs that torch can use, and cores."""
    import torch  # seconds to import: not for a command line with a typing error

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    count = torch.cuda.device_count()
    ids = [part.strip() for part in visible.split(",")] if visible else [str(gpu) for gpu in range(count)]
    return Machine(gpus=ids[:count], cores=len(os.sched_getaffinity(0)))


def plan(config: PretrainConfig, machine: Machine, environment: Mapping[str, str]) -> Launch:
    """Who runs where, for the config's cluster.

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
    """Ranks on this node: as asked, or one per GPU (the demo: at most two), or on a CPU one (the demo: two)."""
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
    if cluster.nodes > 1 and cluster.master == "localhost":
        raise ValueError("cluster=manual needs cluster.master=ADDRESS, the address of node 0, on every node")
    hosts = {f"node{node}": _ranks(config, machine) for node in range(cluster.nodes)}
    return Launch(hosts, cluster.node_rank, cluster.master, config.launch.port or MULTI_NODE_PORT)


def _slurm(config: PretrainConfig, machine: Machine, environment: Mapping[str, str]) -> Launch:
    """One task of an srun step per node; every task comes to the same plan on its own."""
    start = "start it as: srun --ntasks-per-node=1 ./run.sh pretrain cluster=slurm ..."
    if "SLURM_NODEID" not in environment:
        raise ValueError(f"cluster=slurm, but this is not a step of a Slurm job: {start}")
    nodes = int(environment.get("SLURM_STEP_NUM_NODES") or environment["SLURM_NNODES"])
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS") or nodes)
    if tasks != nodes:
        raise ValueError(f"cluster=slurm has {tasks} tasks on {nodes} nodes, and wants one on each: {start}")
    master = config.cluster.master if config.cluster.master != "localhost" else _first_slurm_host(environment)
    port = config.launch.port or 20000 + int(environment.get("SLURM_JOB_ID", "0")) % 10000
    hosts = {f"node{node}": _ranks(config, machine) for node in range(nodes)}
    return Launch(hosts, int(environment["SLURM_NODEID"]), master, port)


def _first_slurm_host(environment: Mapping[str, str]) -> str:
    """The host of node 0 of this step."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"]
    try:
        shown = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ValueError(f"scontrol cannot tell the first of {nodes} ({error}): give cluster.master=HOST") from None
    return shown.stdout.split()[0]


def _hostfile(config: PretrainConfig) -> Launch:
    """`HOST slots=N` lines; `launch.ranks` takes so many slots of each host."""
    path = config.cluster.hostfile
    if not path or not Path(path).is_file():
        raise ValueError(f"cluster.hostfile={path}: no such file; give a file of lines 'HOST slots=GPUS'")
    hosts: dict[str, int] = {}
    for line in Path(path).read_text().splitlines():
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


def command_line(launch: Launch, machine: Machine, overrides: list[str]) -> list[str]:
    """The command that starts the ranks; `overrides` are what pretrain.train is given.

    Raises ValueError for what pdsh cannot carry.
    """
    python = [sys.executable, "-u", "-m"]
    if not launch.hostfile:
        node = [f"--node_rank={launch.node}", f"--master_addr={launch.master}", f"--master_port={launch.port}"]
        world = f"--world_info={_world_info(launch, machine)}"
        return [*python, "deepspeed.launcher.launch", world, *node, *MODULE, *overrides]
    hosts = [f"--hostfile={launch.hostfile}", f"--master_port={launch.port}"]
    hosts += [f"--num_gpus={launch.ranks}"] if launch.ranks else []
    if len(launch.hosts) > 1:
        _through_ssh(sys.executable)  # DeepSpeed passes it on as it is
        overrides = [_through_ssh(override) for override in overrides]
    return [*python, "deepspeed.launcher.runner", *hosts, *MODULE, *overrides]


def _world_info(launch: Launch, machine: Machine) -> str:
    """The launcher's table of hosts and their devices, base64 of JSON."""
    devices: dict[str, list] = {host: list(range(ranks)) for host, ranks in launch.hosts.items()}
    if machine.gpus:
        devices[list(devices)[launch.node]] = machine.gpus[: launch.local_ranks]
    return base64.urlsafe_b64encode(json.dumps(devices).encode()).decode()


def _through_ssh(override: str) -> str:
    """Quote for the remote shell, which would expand the braces of `data.shards` (DeepSpeed quotes blanks alone)."""
    if " " in override:
        raise ValueError(f"'{override}': blanks cannot be passed to other hosts; use a path without, or cluster=manual")
    return shlex.quote(override)


def free_port() -> int:
    """A TCP port that is free on this machine now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class DemoSet(NamedTuple):
    """The packaged data of one modality."""

    source: str
    """Of `shards build`."""
    folder: str
    """In the cache."""
    probe: str
    """The split with labels for the probe's reference; `train` and `test` are the others."""

    @property
    def splits(self) -> set[str]:
        """Names of its shards."""
        return {"train", self.probe, "test"}


DEMO: dict[Modality, DemoSet] = {
    "vision": DemoSet("demo", "shards", "train"),
    "speech": DemoSet("demo_speech", "shards_speech", "probe"),
    "text": DemoSet("demo_text", "shards_text", "probe"),
}


_RUN_KEYS = ("data.shards", "probe.train_shards", "probe.test_shards")
_SHARE_KEYS = ("shards", "probe_train_shards", "probe_test_shards")  # the same in a section of `mixture`


def demo_folder(modality: Modality) -> Path:
    """Where the demo's shards are."""
    return cache_folder() / DEMO[modality].folder


def demo_overrides(config: PretrainConfig, overrides: list[str]) -> list[str]:
    """Where the demo's shards are and where its run goes, as far as the user did not say in `overrides`."""
    found = [] if config.run.dir else [f"run.dir=runs/{config.recipe}"]
    given = {key for key, _ in map(split_override, overrides)}
    for modality in config.modalities:
        found += _demo_shards(config.part(modality), f"mixture.{modality}" if config.is_mixture else "", given)
    return found


def _demo_shards(part: PretrainConfig, share: str, given: set[str]) -> list[str]:
    """The overrides of one modality; `share` is its section of a mixture."""
    if part.data.shards:
        return []
    folder, demo = demo_folder(part.modalities[0]), DEMO[part.modalities[0]]
    data, train, test = [f"{share}.{key}" for key in _SHARE_KEYS] if share else _RUN_KEYS
    given = given - {data}
    if train in given and not part.probe.train_shards:  # the probe is off
        given.add(test)
    splits = {data: "train", train: demo.probe, test: "test"}
    return [f"{key}={folder}/{split}-*.tar" for key, split in splits.items() if key not in given]


def build_demo_shards(modality: Modality) -> None:
    """Build once; a second run that starts meanwhile waits."""
    folder, demo = demo_folder(modality), DEMO[modality]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f"{demo.folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = {shard.url.partition("-")[0] for shard in read_folder_index(folder).shards}
        if not built >= demo.splits:
            command = [sys.executable, "-m", "data_shards", "build", f"source={demo.source}", f"output={folder}"]
            if subprocess.run(command).returncode:
                raise ValueError(f"the demo's shards could not be made in {folder}: see above")


def check_files(config: PretrainConfig) -> None:
    """Raise ValueError where a key names nothing, or is empty and must not be. A run that resumes needs no `init`."""
    mixture_of(config)  # refuses one without shards
    for modality in config.modalities:
        part = config.part(modality)
        if not part.data.shards:
            raise ValueError("data.shards is empty: give data.shards=PATTERN (./run.sh shards build makes shards)")
        for shards in (part.data.shards, part.probe.train_shards, part.probe.test_shards):
            if shards:
                resolve(shards, folders=Folders(storage_of(part.data)))
    if not config.run.dir:
        raise ValueError("run.dir is empty: give run.dir=DIR; the same DIR resumes")
    resumes = any((Path(config.run.dir) / "checkpoints").glob("step_*"))
    if config.init and not resumes and not Path(config.init).is_dir():
        raise ValueError(f"init={config.init}: no such folder; give a run directory or a Hugging Face folder")


def finished_steps(config: PretrainConfig) -> int:
    """Steps of the newest checkpoint in the run directory; 0 without one."""
    latest = latest_checkpoint(Path(config.run.dir))
    digits = latest.name.rpartition("_")[2] if latest else ""
    return int(digits) if digits.isdecimal() else 0


def is_complete(config: PretrainConfig) -> bool:
    """Whether the run has taken its steps, and its closing probe, if it has one."""
    steps = finished_steps(config)
    if steps < max(config.train.steps, 1):
        return False
    wanted = {modality for modality in config.modalities if config.part(modality).probe.train_shards}
    file = Path(config.run.dir) / "metrics.jsonl"
    rows = read_rows(file) if file.is_file() else []
    return wanted <= {row.get("modality", "vision") for row in rows if "knn_top1" in row and row["step"] == steps}


def rank_environment(config: PretrainConfig, launch: Launch, machine: Machine) -> dict[str, str]:
    """This process's environment plus what the ranks need."""
    threads = config.launch.threads or max(1, machine.cores // launch.local_ranks)
    ours = {"OMP_NUM_THREADS": str(threads)}
    if not machine.gpus:
        ours["DS_ACCELERATOR"] = "cpu"
    if len(launch.hosts) > 1 and not launch.hostfile and GLOO_INTERFACE not in os.environ:
        interface = interface_to(launch.master) or interface_to(BEYOND)
        ours |= {GLOO_INTERFACE: interface} if interface else {}
    return {**os.environ, **ours}


def interface_to(host: str) -> str | None:
    """The network interface through which this node reaches `host`.

    None where there is no way, and for loopback, which a host's own name often means there: others cannot reach that.
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(host, MULTI_NODE_PORT, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(place)  # of a datagram socket: sends nothing
            address = probe.getsockname()[0]
    except OSError:
        return None
    named = {entry.address.partition("%")[0]: name for name, all in psutil.net_if_addrs().items() for entry in all}
    return None if ipaddress.ip_address(address).is_loopback else named.get(address)


def precision_text(config: PretrainConfig, launch: Launch, machine: Machine) -> str:
    """The precision, for the log. Raises ValueError for fp16 on CPUs.

    With a hostfile the ranks may be on other machines than this one, and resolve it there.
    """
    return f"precision={config.precision}" if launch.hostfile else resolve_precision(config, bool(machine.gpus))


def main(overrides: list[str]) -> int:
    """Check, prepare, and supervise the run; returns its exit code. Raises ValueError for the user's mistakes."""
    print_help(PretrainConfig, overrides)
    config = compose_pretrain(overrides)
    demo_sets = [m for m in config.modalities if config.demo and not config.part(m).data.shards]
    if config.demo:
        overrides = [*overrides, *demo_overrides(config, overrides)]
        config = compose_pretrain(overrides)
    machine = this_machine()
    launch = plan(config, machine, os.environ)
    check(config, launch.world)
    precision = precision_text(config, launch, machine)
    for modality in demo_sets:
        build_demo_shards(modality)
    check_files(config)
    if is_complete(config):
        print(f"{config.run.dir} is complete at step {finished_steps(config)}: nothing to do.")
        print(f"For more steps, raise train.steps; for a new run, give run.dir=DIR or remove {config.run.dir}.")
        return DONE
    environment = rank_environment(config, launch, machine)
    command = command_line(launch, machine, overrides)
    print(f"recipe {config.recipe}, model {config.model.size}, ZeRO {config.deepspeed.stage}, {precision}")
    devices = f"{len(machine.gpus)} GPUs" if machine.gpus else f"{machine.cores} CPU cores"
    threads = f"OMP_NUM_THREADS={environment['OMP_NUM_THREADS']}"
    print(f"{launch.world} ranks, {launch.local_ranks} of them here ({devices}, {threads}); run.dir={config.run.dir}")
    if GLOO_INTERFACE in environment:
        print(f"{GLOO_INTERFACE}={environment[GLOO_INTERFACE]}")
    ranks = 0 if launch.hostfile else launch.local_ranks
    requeued = os.environ.get("SLURM_JOB_ID", "") if config.cluster.kind == "slurm" and launch.node == 0 else ""
    return supervise(Job(command, environment, Path(config.run.dir), ranks, requeued))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as error:
        fail(error, MISTAKE)
    except KeyboardInterrupt:
        fail("interrupted: give the same command again", STOPPED)
