"""Reading checkpoints: the state of a run, the newest sound folder, whole weights. No DeepSpeed."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from configs.schema_modalities import Modality
from models.data2vec import Weights
from pretrain.checkpoints.manifest import (
    checkpoint_folders,
    damage,
)
from pretrain.checkpoints.partition_files import PartitionFiles
from pretrain.engine import distributed
from pretrain.engine.layout import MASTER, GroupState
from pretrain.engine.teacher import STATE as TEACHER

log = logging.getLogger(__name__)

STATE = "state.json"


FORMAT = 2  # 1 was DeepSpeed's own files


SPARE = 2**20  # bytes of a checkpoint beside its tensors, at most


@dataclass
class RunState:
    """What a resume needs beside the tensors; the same on every rank."""

    data: dict[str, Any]
    """The data cursor (the loader's `state_dict`)."""
    bad_samples: tuple[int, int] = (0, 0)
    """Samples replaced and samples read so far, over all ranks."""
    guard: dict[str, Any] = field(default_factory=dict)
    """What the guard has seen."""
    steps: int = 0
    skipped: int = 0
    """Of the engine, as what follows; `save` fills it in."""
    samples: dict[Modality, int] = field(default_factory=dict)
    """Samples consumed so far, over all ranks."""
    loss_scale: dict[str, Any] = field(default_factory=dict)
    """fp16's."""
    groups: list[GroupState] = field(default_factory=list)
    """The optimizer's."""
    agreement: dict[str, Any] = field(default_factory=dict)
    """Keys of the config that must be the same when the run goes on, with their values."""
    written_by: str = ""
    """Ranks and ZeRO stage: for the log."""
    format: int = FORMAT


def read_state(folder: Path) -> RunState:
    """What a checkpoint holds beside tensors. ValueError where another version of this code wrote it."""
    saved = json.loads((folder / STATE).read_text())
    if saved.get("format") != FORMAT:
        raise ValueError(
            f"{folder} has format {saved.get('format', 1)}, this version reads {FORMAT}: go on with the version that "
            "wrote it (config.yaml names its revision), or choose another run.dir"
        )
    groups = [GroupState(group["step"], tuple(group["keys"])) for group in saved.pop("groups")]
    return RunState(**saved, groups=groups)


def newest_good_of(run_dir: Path) -> Path:
    """The newest good checkpoint of a run; one process. ValueError that names the run where there is none."""
    if folder := newest_sound(checkpoint_folders(run_dir / "checkpoints")):
        return folder
    raise ValueError(f"run={run_dir} has no complete checkpoint: let it train until its first (checkpoint.every)")


def newest_sound(folders: list[Path]) -> Path | None:
    """The last of the folders whose files are what their manifest says; the ranks, if there are several, share them."""
    for folder in reversed(folders):
        share = damage(folder, distributed.rank(), distributed.world())
        faults = [fault for part in distributed.gather(share) for fault in part]
        if not faults:
            return folder
        if distributed.rank() == 0:
            log.warning("checkpoint %s is damaged and passed over: %s", folder, "; ".join(sorted(set(faults))))
    return None


def load_weights(run_dir: Path, weights: Weights) -> tuple[dict[str, Tensor], int]:
    """The fp32 weights of a run's newest good checkpoint, named as in `Data2Vec.student`, and its step.

    One process, no launcher, any ZeRO stage. Raises ValueError that names the run where there is no good checkpoint.
    """
    folder = newest_good_of(run_dir)
    state, files = read_state(folder), PartitionFiles(folder)
    # What the teacher does not average is the student's own; before its first update so is all of it.
    keys = {name: TEACHER if weights == "teacher" and files.holds(name, TEACHER) else MASTER for name in files.shapes}
    return {name: files.whole(name, key) for name, key in keys.items()}, state.steps
