"""Checkpoints that are complete or absent, are read by any number of ranks, and hardly delay training.

    RUN/checkpoints/step_00000500/   rank_*.safetensors   each rank's masters, Adam's moments and teacher, fp32
                                     state.json           steps, data position, guards: the same on all ranks
                                     manifest.json        size and SHA-256 of every file above, written last
    RUN/checkpoints/latest           name of the newest, for people: the newest sound folder decides

A save copies this rank's partitions to host memory, and a thread writes them. The checkpoint takes its name once every
rank's file is on disk. A resume reads the slices of its own partitions, whatever ranks and ZeRO stage wrote them.
Derived values (weights and the teacher's low-precision copy) are not saved. Neither are random states: order, masks,
augmentation and dropout are functions of (seed, step). No file holds code. The folder must be on a file system that all
ranks share.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from configs.schema_running import CheckpointConfig
from data_shards.progress import bytes_progress
from pretrain.checkpoints.agreement import agreement, check_agreement
from pretrain.checkpoints.folders import (
    checkpoint_folders,
    commit,
    make_staging,
    remove,
    remove_leftovers,
    shortage,
    staging_of,
    step_folder,
    step_of,
)
from pretrain.checkpoints.manifest import STATE, Damaged, FileEntry, file_name, write_json
from pretrain.checkpoints.partition_files import Layout, PartitionFiles
from pretrain.checkpoints.reading import SPARE, RunState, faults_of, newest_sound, read_state
from pretrain.checkpoints.snapshot import Snapshot, Write
from pretrain.engine import distributed
from pretrain.engine.engine import Engine

log = logging.getLogger(__name__)


class Checkpoints:
    """Checkpoints of one run directory. Every method is collective."""

    def __init__(self, run_dir: Path, config: CheckpointConfig) -> None:
        self.folder = run_dir / "checkpoints"
        self._config = config
        self._snapshot: Snapshot | None = None
        self._write: Write | None = None
        self._saving: tuple[Path, FileEntry] | None = None
        self.newest: Path | None = None
        """Newest checkpoint that this process has found or written."""
        self.failure: str | None = None
        """Message about the last save if it failed."""
        self._damaged: set[Path] = set()
        """Checkpoints that this process has read and found damaged. What could not be read is not among them."""
        self._unremovable: set[Path] = set()
        """Old checkpoints that could not be removed. The log has named them."""
        if distributed.rank() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder)
        distributed.barrier()

    def save(self, engine: Engine, state: RunState, wait: bool = False) -> None:
        """Begin a checkpoint of the current step, after the end of the previous one.

        With `wait`, or without `checkpoint.asynchronous`, the checkpoint is also finished. If it does not fit on the
        disk or cannot be written, `failure` and the log name the reason, and earlier checkpoints stay.
        """
        self.finish()
        final = step_folder(self.folder, engine.steps)
        try:
            saved = not faults_of(final)
        except OSError as error:
            self._fail(engine.steps, str(error))
            return
        if saved:
            self.newest, self.failure = final, None
            return
        tensors = _own_tensors(engine)
        if not self._has_room(engine.steps, tensors) or not self._stage(final, engine, state):
            return
        if tensors:
            partitions, asynchronous = engine.partitions, self._config.asynchronous and not wait
            layout = Layout(partitions.labels, tuple(partitions.fragments), partitions.shapes)
            kept = self._host_memory(engine).take(tensors) if asynchronous else tensors
            self._write = Write(staging_of(final) / file_name(distributed.rank()), kept, layout)
        if wait or not self._config.asynchronous:
            self.finish()

    @property
    def written(self) -> bool:
        """True if no save is in flight or this rank has written its part of it."""
        return self._write is None or self._write.done

    def settle(self, ranks_written: int) -> None:
        """Finish the save in flight if all ranks have `written` their parts; to be called at every step."""
        if self._saving and ranks_written == distributed.world():
            self.finish()

    def finish(self) -> None:
        """Finish the save in flight, if any: wait for every rank's file, then give the checkpoint its name."""
        if self._saving is None:
            return
        final, state_entry = self._saving
        if self._write:
            self._write.wait()
        mine = (None, None) if self._write is None else (self._write.entry, self._write.error)
        self._write, self._saving = None, None
        self._commit(final, state_entry, distributed.gather(mine))

    def prepare(self, engine: Engine) -> None:
        """Allocate the memory for saves, and check the disk.

        Raises OSError with the bytes needed if not even one checkpoint fits: better now than after hours.
        """
        if text := self._shortage(_own_elements(engine)):
            raise OSError(f"{text}. Make room, or choose a run.dir on another file system")
        if self._config.asynchronous and self._config.every and _own_elements(engine):
            self._host_memory(engine)

    def newest_good(self) -> Path | None:
        """Newest sound checkpoint; None in a new run.

        The log names damaged checkpoints. Raises ValueError if all are damaged: only the user may decide to start over.
        Raises OSError if one newer than all sound ones cannot be read.
        """
        folders = distributed.on_first(lambda: checkpoint_folders(self.folder))
        self.newest = newest_sound(folders, self._damaged)
        if folders and not self.newest:
            raise ValueError(
                f"every checkpoint in {self.folder} is damaged ({', '.join(f.name for f in folders)}): "
                "move them away to begin anew in this run.dir, or choose another run.dir"
            )
        return self.newest

    def load(self, engine: Engine, folder: Path) -> RunState:
        """Load `folder` into the engine. Raises ValueError that names the key in which the runs disagree."""
        state = read_state(folder)
        check_agreement(folder, state.agreement, agreement(engine.config))
        files = PartitionFiles(folder)
        mine = sum(tensor.numel() for tensor in engine.partitions.local("student"))
        here, there = _ranks_text(engine), state.written_by
        title = f"{folder.name} was written by {there}: loading it into {here}"
        with bytes_progress(title, 16 * mine, shown=here != there and distributed.rank() == 0) as progress:

            def read(name: str, key: str, start: int, out: Tensor) -> None:
                files.read(name, key, start, out)
                progress.advance(4 * out.numel())

            engine.partitions.restore(state.groups, read)
        engine.partitions.loss_scale = state.loss_scale
        engine.resume(state.steps, state.skipped, state.samples)
        return state

    def _has_room(self, step: int, tensors: dict[str, Tensor]) -> bool:
        self.failure = self._shortage(sum(tensor.numel() for tensor in tensors.values()))
        if self.failure:
            self._log_failure(step)
        return not self.failure

    def _host_memory(self, engine: Engine) -> Snapshot:
        if self._snapshot is None:
            self._snapshot = Snapshot(_own_elements(engine), engine.partitions.masters[0].is_cuda)
        return self._snapshot

    def _shortage(self, elements: int) -> str | None:
        """Message that a checkpoint with `elements` fp32 values on this rank has no room; None if it fits."""
        needed = sum(distributed.gather(4 * elements)) + SPARE
        return distributed.broadcast(shortage(self.folder, needed) if distributed.rank() == 0 else None)

    def _stage(self, final: Path, engine: Engine, state: RunState) -> bool:
        """Make the folder in which the files are gathered; False if that fails."""
        entry: FileEntry | OSError | None = None
        if distributed.rank() == 0:
            state.steps, state.skipped, state.samples = engine.steps, engine.skipped, engine.samples
            state.groups, state.loss_scale = engine.partitions.group_states(), engine.partitions.loss_scale
            state.agreement = agreement(engine.config)
            state.written_by = _ranks_text(engine)
            try:
                remove_leftovers(self.folder)
                entry = write_json(make_staging(final) / STATE, asdict(state))
            except OSError as error:
                entry = error
        entry = distributed.broadcast(entry)
        if isinstance(entry, FileEntry):
            self._saving = (final, entry)
            return True
        self._fail(engine.steps, str(entry))
        return False

    def _commit(self, final: Path, state: FileEntry, parts: list[tuple[FileEntry | None, str | None]]) -> None:
        errors = [f"rank {rank}: {error}" for rank, (_, error) in enumerate(parts) if error]
        entries = {file_name(rank): entry for rank, (entry, _) in enumerate(parts) if entry}
        if not errors and distributed.rank() == 0:
            try:
                commit(staging_of(final), final, {STATE: state, **entries})
            except OSError as error:
                errors = [str(error)]
        errors = distributed.broadcast(errors)
        if errors:
            self._fail(step_of(final), "; ".join(errors))
            return
        self.newest, self.failure = final, None
        self._damaged.discard(final)
        if distributed.rank() == 0:
            self._prune(final)

    def _fail(self, step: int, why: str) -> None:
        self.failure = f"the checkpoint of step {step} could not be written ({why})"
        if distributed.rank() == 0:
            with contextlib.suppress(OSError):  # the disk that has failed the save may fail this too
                remove_leftovers(self.folder)
        self._log_failure(step)

    def _log_failure(self, step: int) -> None:
        if distributed.rank() == 0:
            stays = f"{self.newest.name} stays the newest" if self.newest else "there is none yet"
            log.error("step %d: %s; %s, and training goes on", step, self.failure, stays)

    def _prune(self, newest: Path) -> None:
        """Keep the last `keep` checkpoints up to `newest`, and all whose step is a multiple of `keep_every`.

        Those found damaged are removed once `keep` sound ones are newer, if they still are damaged then. Others later
        than `newest` stay: somebody has put them there meanwhile.
        """
        every, keep = self._config.keep_every, self._config.keep
        try:
            folders = checkpoint_folders(self.folder)
        except OSError as error:
            log.warning("old checkpoints stay for now: %s", error)
            return
        good = [folder for folder in folders if folder not in self._damaged and step_of(folder) <= step_of(newest)]
        old = [folder for folder in good[:-keep] if not every or step_of(folder) % every]
        past = [folder for folder in folders if step_of(folder) < step_of(good[-keep:][0])]
        for folder in (*old, *filter(self._still_damaged, past)):
            self._remove(folder)

    def _still_damaged(self, folder: Path) -> bool:
        """True for a checkpoint that was found damaged and is so now: what was missing may have come back."""
        if folder not in self._damaged:
            return False
        with contextlib.suppress(OSError):
            if faults_of(folder):
                return True
            self._damaged.discard(folder)
        return False

    def _remove(self, folder: Path) -> None:
        """Remove an old checkpoint; the log says once that it stays if it cannot be removed."""
        try:
            remove(folder)
        except (OSError, Damaged) as error:
            if folder not in self._unremovable:
                log.warning("checkpoint %s cannot be removed (%s): it stays", folder, error)
            self._unremovable.add(folder)


def _has_part(engine: Engine) -> bool:
    return distributed.rank() == 0 or engine.partitions.sharded


def _own_tensors(engine: Engine) -> dict[str, Tensor]:
    """Tensors that this rank writes, by PARTITION/KEY."""
    return engine.partitions.tensors() if _has_part(engine) else {}


def _own_elements(engine: Engine) -> int:
    """Number of values that this rank writes once the optimizer has states: masters, two moments and the teacher."""
    return 4 * sum(master.numel() for master in engine.partitions.masters) if _has_part(engine) else 0


def _ranks_text(engine: Engine) -> str:
    ranks = distributed.world()
    return f"{ranks} rank{'s' * (ranks > 1)} in ZeRO {engine.config.deepspeed.stage}"
