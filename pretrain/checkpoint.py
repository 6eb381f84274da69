"""Checkpoints that are complete or absent: stage, hash, commit; find the newest good one; keep the last few.

    RUN/checkpoints/step_00000500/   DeepSpeed's files (masters, Adam, teacher; the low-precision copy is derived)
                    state.json       steps, skipped steps, data cursor, and what a resume must agree with
                    layout_*.json    which slice of which parameter each rank's partitions hold
                    manifest.json    size and SHA-256 of every file above, written last
    RUN/checkpoints/latest           name of the newest, replaced atomically after its manifest is on disk

Nothing random is stored: order, masks, augmentation and dropout are functions of (seed, step). The folder must be on
a file system that all ranks share.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.schema import Modality, PretrainConfig
from data_shards.writer import file_sha256, replace_text
from models.data2vec import Weights
from models.flops import parameters
from pretrain import distributed
from pretrain.engine import Engine
from pretrain.zero_partitions import Fragment, assemble, saved_partitions

log = logging.getLogger(__name__)

PREFIX, STAGING, MANIFEST, STATE = "step_", "staging", "manifest.json", "state.json"


@dataclass
class RunState:
    """What a resume needs beside DeepSpeed's files."""

    steps: int
    skipped: int
    data: dict[str, Any]
    """The data cursor (the loader's `state_dict`)."""
    bad_samples: tuple[int, int] = (0, 0)
    """Samples replaced and samples read so far, over all ranks."""
    samples: dict[Modality, int] = field(default_factory=dict)
    """Samples consumed so far, over all ranks; absent in older checkpoints, which are of vision alone."""
    agreement: dict[str, Any] = field(default_factory=dict)
    """Keys of the config that must be the same when the run goes on, with their values."""


class Checkpoints:
    """The checkpoints of one run directory. Every method is collective."""

    def __init__(self, run_dir: Path, keep: int) -> None:
        self.folder = run_dir / "checkpoints"
        self.keep = keep
        if distributed.rank() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self.folder / STAGING, ignore_errors=True)  # what a killed save left
        distributed.barrier()

    def save(self, engine: Engine, data: dict[str, Any], bad_samples: tuple[int, int]) -> Path:
        """Write a checkpoint of the present step and return its folder.

        Raises OSError, on all ranks, where the file system has not enough room; the old checkpoints stay.
        """
        final = self.folder / f"{PREFIX}{engine.steps:08d}"
        if distributed.broadcast(distributed.rank() == 0 and not damage(final)):
            return final
        self._check_room(engine)
        staging = self.folder / STAGING
        engine.deepspeed.save_checkpoint(
            str(self.folder), tag=STAGING, save_latest=False, exclude_frozen_parameters=True
        )
        _write_layout(staging, engine)
        if distributed.rank() == 0:
            state = RunState(engine.steps, engine.skipped, data, bad_samples, engine.samples, agreement(engine))
            _write_json(staging / STATE, asdict(state))
        distributed.barrier()
        digests = _digests(staging, sorted(p.name for p in staging.iterdir()))
        if distributed.rank() == 0:
            _write_json(staging / MANIFEST, digests)
            shutil.rmtree(final, ignore_errors=True)  # a damaged one of the same step
            staging.rename(final)
            replace_text(self.folder / "latest", final.name)
            self._prune(final)
        distributed.barrier()
        return final

    def newest_good(self) -> Path | None:
        """The newest checkpoint whose files are what its manifest says; None in a new run.

        Damaged ones are named in the log. Raises ValueError where all are damaged: to begin anew is the user's choice.
        """
        folders: list[Path] = distributed.broadcast(_folders(self.folder))
        for folder in reversed(folders):
            share = damage(folder, distributed.rank(), distributed.world())
            faults = [fault for part in distributed.gather(share) for fault in part]
            if not faults:
                return folder
            if distributed.rank() == 0:
                log.warning("checkpoint %s is damaged and passed over: %s", folder, "; ".join(faults))
        if folders:
            raise ValueError(
                f"every checkpoint in {self.folder} is damaged ({', '.join(f.name for f in folders)}): "
                "move them away to begin anew in this run.dir, or choose another run.dir"
            )
        return None

    def load(self, engine: Engine, folder: Path) -> RunState:
        """Load `folder` into the engine. Raises ValueError that names the key where the run was another one."""
        state = RunState(**json.loads((folder / STATE).read_text()))
        _check_agreement(folder, state.agreement, agreement(engine))
        engine.deepspeed.load_checkpoint(
            str(self.folder), tag=folder.name, load_module_strict=False, load_lr_scheduler_states=False
        )
        samples = state.samples or {"vision": state.steps * engine.config.batch.global_}
        engine.resume(state.steps, state.skipped, samples)
        return state

    def _check_room(self, engine: Engine) -> None:
        """Masters, two moments and the teacher in fp32, and the weights, with a tenth to spare."""
        needed = int(parameters(engine.config) * 20 * 1.1)
        free: int = distributed.broadcast(shutil.disk_usage(self.folder).free)
        if free < needed:
            raise OSError(
                f"no room for a checkpoint in {self.folder}: {needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free. "
                "Make room or lower checkpoint.keep, then start again: the run resumes from its last checkpoint."
            )

    def _prune(self, newest: Path) -> None:
        """Keep the last N up to `newest`; later ones are damaged, or this run would have gone on from them."""
        folders = _folders(self.folder)
        upto = [folder for folder in folders if folder.name <= newest.name]
        for folder in set(folders) - set(upto[-self.keep :]):
            shutil.rmtree(folder, ignore_errors=True)


def load_weights(run_dir: Path, weights: Weights) -> tuple[dict[str, Tensor], int]:
    """The fp32 weights of a run's newest good checkpoint, named as in `Data2Vec.student`, and its step.

    One process, no launcher, any ZeRO stage. Raises ValueError that names the run where there is no good checkpoint.
    """
    for folder in reversed(_folders(run_dir / "checkpoints")):
        faults = damage(folder)
        if not faults:
            return _read_weights(folder, weights)
        log.warning("checkpoint %s is damaged and passed over: %s", folder, "; ".join(faults))
    raise ValueError(f"run={run_dir} has no complete checkpoint: let it train until its first (checkpoint.every)")


def agreement(engine: Engine) -> dict[str, Any]:
    """What has to be the same in the process that saves and the one that resumes."""
    config = engine.config
    parts = [config.part(modality) for modality in config.modalities]
    agreed: dict[str, Any] = {
        "modality": f"[{','.join(config.modalities)}]" if config.is_mixture else config.modality,
        "ranks": distributed.world(),
        "deepspeed.stage": config.deepspeed.stage,
        "precision": engine.precision,
        "train.seed": config.train.seed,
        "model.layers": config.model.layers,
        "model.width": config.model.width,
        "model.heads": config.model.heads,
        "model.ffn": config.model.ffn,
        "model.layer_scale > 0": config.model.layer_scale > 0,
        "model.norm": _common([part.model.norm for part in parts]),
        "teacher.average": _common([part.teacher.average for part in parts]),
        "optimizer.decay_rule": config.optimizer.decay_rule,
    }
    if config.is_mixture:
        agreed["mixture.blocks"] = config.mixture.blocks
    for modality in config.modalities:
        agreed |= _shape(config, modality)
    return agreed


def _shape(config: PretrainConfig, modality: Modality) -> dict[str, Any]:
    """What the parameters of a modality's own modules depend on."""
    match modality:
        case "vision":
            keys = ["image_size", "patch_size"]
        case "speech":
            keys = ["conv_width", "position_layers", "position_kernel", "position_groups"]
        case "text":
            keys = ["vocab_size", "max_tokens"]
    return {f"{modality}.{key}": getattr(getattr(config, modality), key) for key in keys}


def _common(values: Sequence[str | None]) -> str | None:
    """The value of all modalities; where they differ, "null": each has its own."""
    return values[0] if len(set(values)) == 1 else "null"


def _write_json(path: Path, value: Any) -> None:
    replace_text(path, json.dumps(value, indent=1))


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob(f"{PREFIX}*") if p.is_dir())


def _check_agreement(folder: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    for key, value in saved.items():
        if now.get(key) != value:
            remedy = f"launch.ranks={value} (per node)" if key == "ranks" else f"{key}={value}"
            raise ValueError(
                f"{folder} was saved with {key} = {value}, this run has {now.get(key)}: "
                f"go on with {remedy}, or choose another run.dir"
            )


def _write_layout(folder: Path, engine: Engine) -> None:
    partitions = engine.partitions
    if distributed.rank() == 0 or partitions.sharded:
        fragments = [[f.name, f.partition, f.offset, f.start, f.numel] for f in partitions.fragments]
        shapes = {name: list(shape) for name, shape in partitions.shapes.items()}
        layout = {"stage": engine.config.deepspeed.stage, "shapes": shapes, "fragments": fragments}
        _write_json(folder / f"layout_{distributed.rank():05d}.json", layout)


def _read_weights(folder: Path, weights: Weights) -> tuple[dict[str, Tensor], int]:
    layouts = [json.loads(path.read_text()) for path in sorted(folder.glob("layout_*.json"))]
    pieces: list[tuple[Fragment, Tensor]] = []
    for rank, layout in enumerate(layouts):
        fragments = [Fragment(*entry) for entry in layout["fragments"]]
        partitions = saved_partitions(folder, layout["stage"], rank, fragments)[weights]
        pieces += [(f, partitions[f.partition].narrow(0, f.offset, f.numel)) for f in fragments]
    shapes = {name: torch.Size(shape) for name, shape in layouts[0]["shapes"].items()}
    return assemble(shapes, pieces), json.loads((folder / STATE).read_text())["steps"]


def _digests(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each file, flushed to disk; the ranks share the work."""
    mine = {}
    for name in names[distributed.rank() :: distributed.world()]:
        path = folder / name
        with path.open("rb") as file:
            os.fsync(file.fileno())
        mine[name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    return {name: value for part in distributed.gather(mine) for name, value in sorted(part.items())}


def damage(folder: Path, rank: int = 0, world: int = 1) -> list[str]:
    """What differs from the manifest, one text per file; empty where the checkpoint is good.

    Rank `rank` of `world` looks at its share of the files.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        expected = sorted((name, entry["bytes"], entry["sha256"]) for name, entry in manifest.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [f"{MANIFEST} is missing or unreadable"]
    faults = []
    for name, size, digest in expected[rank::world]:
        path = folder / name
        if not path.is_file():
            faults.append(f"{name} is missing")
        elif path.stat().st_size != size:
            faults.append(f"{name} has {path.stat().st_size} bytes, not {size}")
        elif file_sha256(path) != digest:
            faults.append(f"{name} has another checksum")
    return faults
