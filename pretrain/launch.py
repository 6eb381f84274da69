"""What `./run.sh pretrain` runs: check the config, make the demo's shards, start one process per rank, supervise them.

The processes are started by DeepSpeed's launcher: directly by its per-node half, or, for a hostfile, by its runner,
which reaches the other nodes through pdsh. The runner is left out where it is not needed: it exits with 0 when the
node's launcher is killed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from configs.checks import check, resolve_precision
from configs.command import fail
from configs.compose import compose_pretrain, print_help
from configs.schema import PretrainConfig
from data_shards.order.mixture import mixture_of
from data_shards.shards.index_file import FolderIndexes
from data_shards.shards.patterns import resolve
from data_shards.shards.storage import storage_of
from pretrain.checkpoints.manifest import latest_checkpoint
from pretrain.launching.command_line import GLOO_INTERFACE, command_line, rank_environment
from pretrain.launching.demo import build_demo_shards, demo_overrides
from pretrain.launching.exits import DONE, MISTAKE, STOPPED
from pretrain.launching.plan import Launch, Machine, plan, this_machine
from pretrain.launching.supervise import Job, supervise
from pretrain.reporting.metrics import read_rows


def check_files(config: PretrainConfig) -> None:
    """Raise ValueError where a key names nothing, or is empty and must not be. A run that resumes needs no `init`."""
    mixture_of(config)  # refuses one without shards
    for modality in config.modalities:
        own = config.for_modality(modality)
        if not own.data.shards:
            raise ValueError("data.shards is empty: give data.shards=PATTERN (./run.sh shards build makes shards)")
        for shards in (own.data.shards, own.probe.train_shards, own.probe.test_shards):
            if shards:
                resolve(shards, folders=FolderIndexes(storage_of(own.data)))
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
    wanted = {modality for modality in config.modalities if config.for_modality(modality).probe.train_shards}
    file = Path(config.run.dir) / "metrics.jsonl"
    rows = read_rows(file) if file.is_file() else []
    return wanted <= {row.get("modality", "vision") for row in rows if "knn_top1" in row and row["step"] == steps}


def precision_text(config: PretrainConfig, launch: Launch, machine: Machine) -> str:
    """The precision, for the log. Raises ValueError for fp16 on CPUs.

    With a hostfile the ranks may be on other machines than this one, and resolve it there.
    """
    return f"precision={config.precision}" if launch.hostfile else resolve_precision(config, bool(machine.gpus))


def main(overrides: list[str]) -> int:
    """Check, prepare, and supervise the run; returns its exit code. Raises ValueError for the user's mistakes."""
    print_help(PretrainConfig, overrides)
    config = compose_pretrain(overrides)
    demo_sets = [m for m in config.modalities if config.demo and not config.for_modality(m).data.shards]
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
