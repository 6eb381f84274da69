"""Reading checkpoints without DeepSpeed: a run's state, its newest good folder, whole weights."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from configs.schema_modalities import Modality
from data_shards.shards.bad_sample import BadKind
from models.data2vec import Weights
from pretrain.checkpoints.folders import checkpoint_folders, step_of
from pretrain.checkpoints.manifest import STATE, Damaged, damage, patiently
from pretrain.checkpoints.partition_files import PartitionFiles
from pretrain.engine import distributed
from pretrain.engine.layout import MASTER, GroupState
from pretrain.engine.teacher import STATE as TEACHER

log = logging.getLogger(__name__)

FORMAT = 2  # 1 was DeepSpeed's own files
SPARE = 2**20  # upper bound of a checkpoint's bytes beside its tensors


@dataclass
class RunState:
    """State that a resume needs beside the tensors; equal on every rank."""

    data: dict[str, Any]
    """Data position: the loader's `state_dict`."""
    bad_samples: tuple[int, int] = (0, 0)
    """(Samples replaced, samples read) so far, over all ranks."""
    guard: dict[str, Any] = field(default_factory=dict)
    """States of the step guard (`steps`) and of the collapse guard (`collapse`)."""
    bad_streak: int = 0
    """Bad samples in a row at the end of the last step."""
    bad_kinds: dict[BadKind, int] = field(default_factory=dict)
    """Bad samples so far, by kind, over all ranks."""
    steps: int = 0
    """Steps taken. `Checkpoints.save` fills in this field and all that follow, from the engine."""
    skipped: int = 0
    """Steps taken that were not applied."""
    samples: dict[Modality, int] = field(default_factory=dict)
    """Samples consumed so far, over all ranks."""
    loss_scale: dict[str, Any] = field(default_factory=dict)
    """State of fp16's loss scale; empty in other precisions."""
    groups: list[GroupState] = field(default_factory=list)
    """States of the optimizer's parameter groups."""
    agreement: dict[str, Any] = field(default_factory=dict)
    """Config keys that must not change in a resume, with their values."""
    written_by: str = ""
    """Number of ranks and ZeRO stage, for the log."""
    format: int = FORMAT
    """Version of the checkpoint's files."""


def read_state(folder: Path) -> RunState:
    """Read a checkpoint's state.

    Raises ValueError if an incompatible version of this code wrote it, Damaged if none did, OSError if it cannot be
    read.
    """
    path = folder / STATE
    try:
        saved = json.loads(patiently(path.read_bytes, path))
        version = saved.get("format", 1)
        if version == FORMAT:
            groups = [GroupState(group["step"], tuple(group["keys"])) for group in saved.pop("groups")]
            return RunState(**saved, groups=groups)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{path} is not what this version writes ({error}); use the checkpoint before") from None
    raise ValueError(
        f"{folder} has format {version}, this version reads {FORMAT}: go on with the version that "
        "wrote it (config.yaml names its revision), or choose another run.dir"
    )


def newest_good_of(run_dir: Path) -> Path:
    """Newest sound checkpoint of a run, for a single process.

    Raises ValueError that names the run if there is none, OSError if a checkpoint cannot be read.
    """
    if folder := newest_sound(checkpoint_folders(run_dir / "checkpoints")):
        return folder
    raise ValueError(f"run={run_dir} has no complete checkpoint: let it train until its first (checkpoint.every)")


def newest_sound(folders: list[Path], damaged: set[Path] | None = None) -> Path | None:
    """Last of the folders that is sound; None if all are damaged. Every decision about the newest checkpoint is here.

    The ranks share the check, and all of them call it. The log names the folders that are passed over, and `damaged`
    collects them. Raises OSError on every rank if a folder cannot be read: it may be sound.
    """
    for folder in reversed(folders):
        faults = faults_of(folder)
        if not faults:
            return folder
        if distributed.rank() == 0:
            log.warning("checkpoint %s is damaged and passed over: %s", folder, "; ".join(faults))
        if damaged is not None:
            damaged.add(folder)
    return None


def faults_of(folder: Path) -> list[str]:
    """Faults of a checkpoint: files that differ from its manifest, or that do not make up a checkpoint. Collective.

    Raises OSError on every rank if a file cannot be read, ValueError if another version wrote it.
    """
    shares = distributed.everywhere(lambda: damage(folder, distributed.rank(), distributed.world()))
    faults = sorted({fault for share in shares for fault in share})
    return faults or distributed.on_first(lambda: _content_faults(folder))


def _content_faults(folder: Path) -> list[str]:
    """Faults of a checkpoint whose files all match its manifest: one that lists too little, for instance."""
    try:
        PartitionFiles(folder)
        if (steps := read_state(folder).steps) != step_of(folder):
            return [f"it is of step {steps}: give it that name"]
    except Damaged as fault:
        return [str(fault)]
    return []


def load_weights(run_dir: Path, weights: Weights) -> tuple[dict[str, Tensor], int]:
    """Load the fp32 weights of a run's newest good checkpoint, named as in `Data2Vec.student`, and its step.

    For a single process without a launcher, whatever the ZeRO stage of the run. Raises ValueError that names the run if
    it has no good checkpoint.
    """
    folder = newest_good_of(run_dir)
    state, files = read_state(folder), PartitionFiles(folder)
    # A parameter that the teacher does not average is the student's own. Before the first update all of them are.
    keys = {name: TEACHER if weights == "teacher" and files.holds(name, TEACHER) else MASTER for name in files.shapes}
    return {name: files.whole(name, key) for name, key in keys.items()}, state.steps
