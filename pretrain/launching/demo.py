"""Demo data: its shards, built once in the cache, and the overrides that name them."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from configs.compose import compose_pretrain
from configs.keys import split_override
from configs.modality_config import ModalityConfig
from configs.output.lines import say
from configs.schema import PretrainConfig
from configs.schema_modalities import Modality
from data_shards.shards.index_file import read_folder_index
from data_shards.sources.demo.packages import cache_folder
from pretrain.launching.exits import DONE, STALLED


class DemoSet(NamedTuple):
    """Packaged data of one modality."""

    source: str
    """Value of `source` for `shards build`."""
    folder: str
    """Name of its folder in the cache."""
    probe: str
    """Split with labels for the probe's reference. The other splits are `train` and `test`."""

    @property
    def splits(self) -> set[str]:
        """Names of its splits, which begin the names of its shards."""
        return {"train", self.probe, "test"}


DEMO: dict[Modality, DemoSet] = {
    "vision": DemoSet("demo", "shards", "train"),
    "speech": DemoSet("demo_speech", "shards_speech", "probe"),
    "text": DemoSet("demo_text", "shards_text", "probe"),
}

_RUN_KEYS = ("data.shards", "probe.train_shards", "probe.test_shards")
_SHARE_KEYS = ("shards", "probe_train_shards", "probe_test_shards")  # the same keys in a section of `mixture`


def demo_folder(modality: Modality) -> Path:
    """Folder of the demo's shards."""
    return cache_folder() / DEMO[modality].folder


def with_demo_shards(config: PretrainConfig, overrides: list[str]) -> tuple[PretrainConfig, list[str]]:
    """The run that the overrides describe, and its overrides; a demo's name its shards and its run directory."""
    if not config.demo:
        return config, overrides
    overrides = [*overrides, *demo_overrides(config, overrides)]
    return compose_pretrain(overrides), overrides


def demo_overrides(config: PretrainConfig, overrides: list[str]) -> list[str]:
    """Overrides for the demo's recipe, shards and run directory, without the keys that the user has set in `overrides`.

    The recipe is named because shards without a recipe are the user's own.
    """
    given = {key for key, _ in map(split_override, overrides)}
    found = [] if "recipe" in given else [f"recipe={config.recipe}"]
    found += [] if config.run.dir else [f"run.dir=runs/{config.recipe}"]
    for modality in config.modalities:
        found += _demo_shards(config.for_modality(modality), f"mixture.{modality}" if config.is_mixture else "", given)
    return found


def _demo_shards(config: ModalityConfig, share: str, given: set[str]) -> list[str]:
    """Overrides of one modality. share: its section of a mixture, or ""."""
    if config.data.shards:
        return []
    folder, demo = demo_folder(config.modality), DEMO[config.modality]
    data, train, test = [f"{share}.{key}" for key in _SHARE_KEYS] if share else _RUN_KEYS
    given = given - {data}
    if train in given and not config.probe.train_shards:  # the user has turned the probe off
        given.add(test)
    splits = {data: "train", train: demo.probe, test: "test"}
    return [f"{key}={folder}/{split}-*.tar" for key, split in splits.items() if key not in given]


def build_demo_shards(modality: Modality) -> int:
    """Build the demo's shards unless they exist; return the exit code of the build. A second run waits meanwhile."""
    folder, demo = demo_folder(modality), DEMO[modality]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f"{demo.folder}.lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = {shard.url.partition("-")[0] for shard in read_folder_index(folder).shards}
        if built >= demo.splits:
            return DONE
        command = [sys.executable, "-m", "data_shards", "build", f"source={demo.source}", f"output={folder}"]
        code = subprocess.run(command).returncode
    if code < 0:
        say(f"error: the build of the demo's shards was killed by signal {-code}; start it again")
    return code if code >= 0 else STALLED
