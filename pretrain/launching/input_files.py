"""Input files of a run: shards and initial weights that the config names, checked before anything starts."""

from __future__ import annotations

from pathlib import Path

from configs.schema import PretrainConfig
from data_shards.order.mixture import mixture_of
from data_shards.shards.index_file import FolderIndexes
from data_shards.shards.patterns import resolve
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
        for shards in (own.data.shards, own.probe.train_shards, own.probe.test_shards):
            if shards:
                resolve(shards, folders=FolderIndexes(storage_of(own.data)))
    if not config.run.dir:
        raise ValueError("run.dir is empty: give run.dir=DIR; the same DIR resumes")
    if config.init and not resumes and not Path(config.init).is_dir():
        raise ValueError(f"init={config.init}: no such folder; give a run directory or a Hugging Face folder")
