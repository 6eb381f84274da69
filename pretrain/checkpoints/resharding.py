"""Resharding: a checkpoint rewritten as whole parameters, independent of ranks and ZeRO stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from data_shards.progress import Progress, bytes_progress
from pretrain.checkpoints.folders import commit, discard, make_staging, remove_leftovers, shortage
from pretrain.checkpoints.manifest import STATE, FileEntry, file_name, write_json
from pretrain.checkpoints.partition_files import Layout, PartitionFiles, tensor_bytes, write_partitions
from pretrain.checkpoints.reading import SPARE, read_state
from pretrain.engine.layout import MASTER, Fragment

WHOLE = "reshard, as whole parameters"
"""`RunState.written_by` of a checkpoint of whole parameters."""


def rewrite_whole(folder: Path, files: int) -> None:
    """Replace the checkpoint `folder` by one of the same content in at most `files` files of whole parameters.

    One parameter is in memory at a time. The old checkpoint stays until the new one is on disk. Raises OSError if the
    new one does not fit beside the old.
    """
    state, source = read_state(folder), PartitionFiles(folder)
    keys = [MASTER, *dict.fromkeys(key for group in state.groups for key in group.keys)]
    sizes = {f"{name}/{key}": shape.numel() for name, shape in source.shapes.items() for key in keys
             if source.holds(name, key)}  # fmt: skip
    staging = _stage(folder, tensor_bytes(sizes) + SPARE)
    state.written_by = WHOLE
    try:
        entries = {STATE: write_json(staging / STATE, asdict(state))}
        with bytes_progress(f"resharding {folder.name}", tensor_bytes(sizes)) as progress:
            entries |= _write(staging, source, sizes, files, progress)
        commit(staging, folder, entries)
    except BaseException:
        discard(staging)
        raise


def _stage(folder: Path, needed: int) -> Path:
    remove_leftovers(folder.parent)
    if text := shortage(folder.parent, needed, "a second checkpoint"):
        raise OSError(text)
    return make_staging(folder)


def _write(
    staging: Path, source: PartitionFiles, sizes: dict[str, int], count: int, progress: Progress
) -> dict[str, FileEntry]:
    def whole(place: str) -> Tensor:
        name, _, key = place.rpartition("/")
        return source.whole(name, key)

    entries = {}
    for number, names in enumerate(_deal(source, count)):
        own = {place: size for place, size in sizes.items() if place.rpartition("/")[0] in names}
        fragments = [Fragment(name, i, 0, 0, source.shapes[name].numel()) for i, name in enumerate(names)]
        layout = Layout(tuple(names), tuple(fragments), source.shapes)
        path = staging / file_name(number)
        entries[path.name] = write_partitions(path, own, whole, layout, progress.advance)
    return entries


def _deal(source: PartitionFiles, count: int) -> Iterator[list[str]]:
    """Names of the parameters in `count` runs of about equal size; fewer runs if there are fewer parameters."""
    total, done, names = sum(shape.numel() for shape in source.shapes.values()), 0, []
    for name, shape in source.shapes.items():
        before, done = done * count // total, done + shape.numel()
        names.append(name)
        if done * count // total > before:
            yield names
            names = []
    assert not names
