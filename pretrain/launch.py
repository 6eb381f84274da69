"""`./run.sh pretrain`: check the config, build the demo's shards, start one process per rank and supervise them.

DeepSpeed's launcher starts the processes. With a hostfile it is the runner, which reaches the other nodes through pdsh.
Otherwise it is the per-node launcher alone, because the runner exits with 0 if the node's launcher is killed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from configs.checks.run import check, resolve_precision
from configs.command import Temporary, fail
from configs.compose import print_help
from configs.output.lines import prepare_lines
from configs.output.stages import stage
from configs.schema import PretrainConfig
from data_shards.leftovers import remove_leftovers
from pretrain.checkpoints.folders import checkpoint_folders, describe_newest, step_of
from pretrain.launching.command_line import command_line, rank_environment
from pretrain.launching.demo import build_demo_shards
from pretrain.launching.exits import DONE, STOPPED, code_of, raise_at_notices
from pretrain.launching.input_files import check_input_files
from pretrain.launching.interfaces import GLOO_INTERFACE, check_interfaces, check_master
from pretrain.launching.job import Job
from pretrain.launching.plan import Launch, Machine
from pretrain.launching.resolved import resolve_run
from pretrain.launching.supervise import supervise
from pretrain.reporting.metrics_file import probed_modalities
from pretrain.reporting.mirror import check_installed


def completed_step(config: PretrainConfig) -> int | None:
    """Step at which the run is complete; None if it is not.

    It is if its newest sound checkpoint has all steps, and its closing probe, if any, is in metrics.jsonl.
    """
    run = Path(config.run.dir)
    last = [folder for folder in checkpoint_folders(run / "checkpoints") if step_of(folder) >= config.train.steps]
    if not last:
        return None
    from pretrain.checkpoints.reading import newest_sound  # seconds to import, with torch

    newest = newest_sound(last)
    wanted = {modality for modality in config.modalities if config.for_modality(modality).probe.train_shards}
    if newest is None or not wanted <= probed_modalities(run / "metrics.jsonl", step_of(newest)):
        return None
    return step_of(newest)


def precision_text(config: PretrainConfig, launch: Launch, machine: Machine) -> str:
    """Precision, for the log. Raises ValueError for fp16 on CPUs.

    With a hostfile the ranks may run on other machines, where they resolve it themselves.
    """
    return f"precision={config.precision}" if launch.hostfile else resolve_precision(config, bool(machine.gpus))


def main(overrides: list[str]) -> int:
    """Check, prepare and supervise the run; return its exit code.

    Raises ValueError for a user's mistake, and KeyboardInterrupt if a notice arrives before anything has started.
    """
    print_help(PretrainConfig, overrides)
    raise_at_notices()
    remove_leftovers()
    config, overrides, fitted, demo_sets, launch, machine = resolve_run(overrides)
    if fitted:
        print(f"for this amount of data on this machine: {' '.join(fitted)}")
    if not launch.hostfile:  # else the ranks may run on other machines, where they check it themselves
        check_interfaces(os.environ, bool(machine.gpus))
        check_master(launch.master)
    check(config, launch.world)
    check_installed(config.log.wandb)
    precision = precision_text(config, launch, machine)
    for modality in demo_sets:
        if code := build_demo_shards(modality):
            return code
    run = Path(config.run.dir)
    with stage(f"checking the data and {config.run.dir}"):
        check_input_files(config, resumes=bool(checkpoint_folders(run / "checkpoints")))
        steps = completed_step(config)
    if steps:
        print(f"{config.run.dir} is complete at step {steps}: nothing to do.")
        print(f"For more steps, raise train.steps; for a new run, give run.dir=DIR or remove {config.run.dir}.")
        return DONE
    environment = rank_environment(config, launch, machine)
    command = command_line(launch, machine, overrides)
    print(f"recipe {config.recipe}, model {config.model.size}, ZeRO {config.deepspeed.stage}, {precision}")
    print(f"{_ranks_text(launch, machine, environment)}; run.dir={config.run.dir}")
    print("starting the processes: loading torch and DeepSpeed takes them some seconds", flush=True)
    if len(launch.hosts) > 1 and GLOO_INTERFACE in environment:
        print(f"{GLOO_INTERFACE}={environment[GLOO_INTERFACE]}")
    ranks = 0 if launch.hostfile else launch.local_ranks
    requeued = os.environ.get("SLURM_JOB_ID", "") if config.cluster.kind == "slurm" and launch.node == 0 else ""
    return supervise(Job(command, environment, run, ranks, lambda: describe_newest(run), requeued, config.log.progress))


def _ranks_text(launch: Launch, machine: Machine, environment: dict[str, str]) -> str:
    devices = f"{len(machine.gpus)} GPUs" if machine.gpus else f"{machine.cores} CPU cores"
    threads = f"OMP_NUM_THREADS={environment['OMP_NUM_THREADS']}"
    return f"{launch.world} rank{'s' * (launch.world > 1)}, {launch.local_ranks} of them here ({devices}, {threads})"


def run(overrides: list[str]) -> NoReturn:
    """Run `main`, and end the process with its exit code. Errors are a line each."""
    prepare_lines()
    try:
        sys.exit(main(overrides))
    except (ValueError, OSError, Temporary) as error:
        fail(error, code_of(error))
    except KeyboardInterrupt:
        fail("interrupted: give the same command again", STOPPED)


if __name__ == "__main__":
    run(sys.argv[1:])
