"""Probe a run: labels that a linear map and the nearest neighbours read from its frozen features, beside a baseline.

python -m pretrain.probe run=DIR [weights=teacher|student] [modality=...] [train_shards=... test_shards=... k=...]
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from configs.command import run
from configs.compose import from_yaml
from configs.modality_config import ModalityConfig
from configs.output.lines import say
from configs.output.secrets import is_masked
from configs.output.stages import LOADING_TORCH, stage
from configs.schema import PretrainConfig
from configs.schema_commands import ProbeCommandConfig
from data_shards.shards.held_out import check_held_out
from data_shards.shards.index_file import FolderIndexes
from data_shards.shards.patterns import patterns_of, resolve
from data_shards.shards.storage import storage_of

if TYPE_CHECKING:
    from torch import Tensor

    from models.data2vec import Data2Vec


def main(command: ProbeCommandConfig) -> None:
    """Print the accuracies of a run's weights, of the untrained network and of the baseline, for each modality."""
    config = from_yaml(Path(command.run) / "config.yaml")
    probed = _configs_to_probe(config, command)
    with stage("comparing the test samples with the others"):
        for own in probed:
            _check_held_out(own)
    # Seconds to import: not for --help and mistakes on the command line.
    with stage(LOADING_TORCH):
        import torch

        from models.data2vec import Data2Vec
        from pretrain.checkpoints.reading import load_weights
        from pretrain.evaluation.probing import probe, table

    with stage("reading the weights"):
        state, step = load_weights(Path(command.run), command.weights)
        model = Data2Vec(config).to("cuda" if torch.cuda.is_available() else "cpu")  # its weights are those of step 0
    untrained = [probe(model, own, command.weights, f"untrained network, {own.modality}", True) for own in probed]
    with torch.no_grad():
        _load_both(model, state)
    title = f"{command.weights} at step {step}"
    trained = [probe(model, own, command.weights, f"{title}, {own.modality}", True) for own in probed]
    for before, after in zip(untrained, trained, strict=True):
        print(table({"untrained network": before, title: after}))


def _load_both(model: Data2Vec, state: dict[str, Tensor]) -> None:
    """Load the weights into student and teacher, of which one is probed."""
    model.student.load_state_dict(state)
    for name, _, teacher in model.tracked():
        teacher.copy_(state[name])


def _configs_to_probe(config: PretrainConfig, command: ProbeCommandConfig) -> list[ModalityConfig]:
    """Configurations of the modalities to probe, with the shards and k that the command names.

    Raises ValueError if the modality is unclear or no labelled shards are named.
    """
    named = command.train_shards or command.test_shards
    asked = [command.modality] if command.modality else config.modalities
    if command.modality and command.modality not in config.modalities:
        raise ValueError(f"modality={command.modality}: the run is of {', '.join(config.modalities)}")
    if named and len(asked) > 1:
        raise ValueError(f"{named}: of which modality? Add modality= and one of {', '.join(config.modalities)}")
    probed = [_with_shards(config.for_modality(modality), command) for modality in asked]
    probed = [own for own in probed if own.probe.train_shards and own.probe.test_shards]
    if not probed:
        raise ValueError("the run names no labelled shards: add train_shards=PATTERN test_shards=PATTERN")
    for own in probed:
        for shards in patterns_of(own.probe.train_shards) + patterns_of(own.probe.test_shards):
            if is_masked(shards):
                raise ValueError(f"{shards}: config.yaml keeps no credentials: add train_shards=URL test_shards=URL")
    return probed


def _check_held_out(config: ModalityConfig) -> None:
    """Raise ValueError as `check_held_out`. Training shards that are not here any more are not compared, and named."""
    data = config.data
    try:
        if data.shards:
            resolve(data.shards, folders=FolderIndexes(storage_of(data)))
    except ValueError as error:
        say(f"the test samples are not compared with the run's data.shards: {error}")
        data = replace(data, shards="")
    check_held_out(data, config.probe)


def _with_shards(config: ModalityConfig, command: ProbeCommandConfig) -> ModalityConfig:
    train, test = command.train_shards or config.probe.train_shards, command.test_shards or config.probe.test_shards
    return replace(config, probe=replace(config.probe, k=command.k, train_shards=train, test_shards=test))


if __name__ == "__main__":
    run(ProbeCommandConfig, main, sys.argv[1:])
