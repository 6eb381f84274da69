"""The run that a command line describes, with all that data, demo and machine add to it."""

from __future__ import annotations

import os
from typing import NamedTuple

from configs.compose import compose_pretrain
from configs.output.stages import stage
from configs.schema import PretrainConfig
from configs.schema_modalities import Modality
from pretrain.launching.demo import with_demo_shards
from pretrain.launching.own_data import fitted_overrides, own_data_overrides
from pretrain.launching.plan import Launch, Machine, plan, this_machine


class ResolvedRun(NamedTuple):
    """A run with final numbers, and where it runs."""

    config: PretrainConfig
    overrides: list[str]
    """Overrides that give this configuration to every rank."""
    fitted: list[str]
    """Those among them that follow from the amount of data and the machine."""
    demo_sets: list[Modality]
    """Modalities whose shards the demo builds."""
    launch: Launch
    machine: Machine


def resolve_run(overrides: list[str]) -> ResolvedRun:
    """Resolve a command line. Raises ValueError for a user's mistake."""
    overrides = [*overrides, *own_data_overrides(overrides)]
    config = compose_pretrain(overrides)
    demo_sets = [m for m in config.modalities if config.demo and not config.for_modality(m).data.shards]
    config, overrides = with_demo_shards(config, overrides)
    with stage("looking for GPUs"):
        machine = this_machine()
    launch = plan(config, machine, os.environ)
    if fitted := fitted_overrides(config, overrides, launch, machine):
        overrides = [*overrides, *fitted]
        config = compose_pretrain(overrides)
    return ResolvedRun(config, overrides, fitted, demo_sets, launch, machine)
