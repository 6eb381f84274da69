"""Write the newest good checkpoint of a run anew as whole parameters: independent of ranks and ZeRO stage.

python -m pretrain.reshard run=DIR [files=1]

A resume needs no such step, for it reads the slices that it wants from whatever there is. But files of whole
parameters, each under its name, are few, quick to read for any number of ranks, and for any safetensors reader.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from configs.command import run
from configs.schema_commands import ReshardConfig
from pretrain.checkpoints.manifest import FileEntry, commit, remove_leftovers, shortage, staging_of, write_json
from pretrain.checkpoints.partition_files import Layout, PartitionFiles, file_name, tensor_bytes, write_partitions
from pretrain.checkpoints.reading import SPARE, STATE, newest_good_of, read_state
from pretrain.engine.layout import MASTER, Fragment
from pretrain.reporting.progress import BytesBar, bytes_bar
from pretrain.run_directory import lock

WHOLE = "reshard, as whole parameters"


def reshard(command: ReshardConfig) -> Path:
    """Replace the checkpoint by one of the same content; returns its folder. One parameter is in memory at a time.

    The old one stays until the new one is on the disk. Raises ValueError where the run is in use or has no checkpoint,
    OSError where the new one does not fit beside the old.
    """
    if not (Path(command.run) / "checkpoints").is_dir():
        raise ValueError(f"run={command.run} is no run directory: it has no checkpoints/")
    with lock(Path(command.run)):
        folder = newest_good_of(Path(command.run))
        state, files = read_state(folder), PartitionFiles(folder)
        keys = [MASTER, *dict.fromkeys(key for group in state.groups for key in group.keys)]
        sizes = {f"{name}/{key}": shape.numel() for name, shape in files.shapes.items() for key in keys
                 if files.holds(name, key)}  # fmt: skip
        staging = _stage(folder, tensor_bytes(sizes) + SPARE)
        state.written_by = WHOLE
        try:
            entries = {STATE: write_json(staging / STATE, asdict(state))}
            with bytes_bar(f"resharding {folder.name}", tensor_bytes(sizes), shown=True) as bar:
                entries |= _write(staging, files, sizes, command.files, bar)
            commit(staging, folder, entries)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        return folder


def _stage(folder: Path, needed: int) -> Path:
    remove_leftovers(folder.parent)
    if text := shortage(folder.parent, needed, "a second checkpoint"):
        raise OSError(text)
    staging_of(folder).mkdir()
    return staging_of(folder)


def _write(
    staging: Path, files: PartitionFiles, sizes: dict[str, int], count: int, bar: BytesBar
) -> dict[str, FileEntry]:
    def whole(place: str):
        name, _, key = place.rpartition("/")
        return files.whole(name, key)

    entries = {}
    for number, names in enumerate(_deal(files, count)):
        own = {place: size for place, size in sizes.items() if place.rpartition("/")[0] in names}
        fragments = [Fragment(name, i, 0, 0, files.shapes[name].numel()) for i, name in enumerate(names)]
        layout = Layout(tuple(names), tuple(fragments), files.shapes)
        entries[file_name(number)] = write_partitions(staging / file_name(number), own, whole, layout, bar.update)
    return entries


def _deal(files: PartitionFiles, count: int) -> Iterator[list[str]]:
    """The parameters in `count` runs of about equal size; fewer where there are not as many."""
    total, done, names = sum(shape.numel() for shape in files.shapes.values()), 0, []
    for name, shape in files.shapes.items():
        before, done = done * count // total, done + shape.numel()
        names.append(name)
        if done * count // total > before:
            yield names
            names = []
    assert not names


def main(command: ReshardConfig) -> None:
    """Reshard, and say what is there now."""
    folder = reshard(command)
    print(f"{folder} now holds whole parameters; pretrain goes on from it on any number of ranks, in any ZeRO stage:")
    for file in sorted(folder.iterdir()):
        print(f"  {file.name}  {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    run(ReshardConfig, main, sys.argv[1:])
