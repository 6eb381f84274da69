"""Input files of a run: shards and initial weights that the config names, checked before anything starts."""

from __future__ import annotations

from pathlib import Path

from configs.checks.run import naming
from configs.modality_config import ModalityConfig
from configs.schema import PretrainConfig
from data_shards.order.mixture import mixture_of
from data_shards.shards.held_out import check_held_out
from data_shards.shards.index_file import FolderIndexes
from data_shards.shards.patterns import check_one_name, resolve
from data_shards.shards.storage import storage_of


def check_input_files(config: PretrainConfig, resumes: bool) -> None:
    """Raise ValueError that names the key if a required key is empty, or if its files do not exist.

    resumes: the run has a checkpoint, and so does not read `init`.
    """
    mixture_of(config)  # refuses a mixture without shards
    for modality in config.modalities:
        own = config.for_modality(modality)
        if not own.data.shards:
            raise ValueError("data.shards is empty: give data.shards=PATTERN (./run.sh shards build makes shards)")
        with naming(config, modality):
            _check_shards(own)
    if not config.run.dir:
        raise ValueError("run.dir is empty: give run.dir=DIR; the same DIR resumes")
    if config.init and not resumes and not Path(config.init).is_dir():
        raise ValueError(f"init={config.init}: no such folder; give a run directory or a Hugging Face folder")


def _check_shards(config: ModalityConfig) -> None:
    """Raise ValueError if shards do not exist, are named by an ambiguous folder, or are not held out."""
    folders = FolderIndexes(storage_of(config.data))
    for shards in (config.data.shards, config.probe.train_shards, config.probe.test_shards):
        if shards:
            resolve(shards, folders=folders)
            check_one_name(shards, folders)
    if config.probe.train_shards:
        check_held_out(config.data, config.probe)
