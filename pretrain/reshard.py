"""Rewrite the newest good checkpoint of a run as whole parameters, independent of ranks and ZeRO stage.

python -m pretrain.reshard run=DIR [files=1]

A resume does not need this: it reads the slices that it wants from the files of any ranks. But files of whole
parameters, each under its name, are few, quick to read for any number of ranks, and open to any safetensors reader.
"""

from __future__ import annotations

import sys
from pathlib import Path

from configs.command import run
from configs.output.stages import LOADING_TORCH, stage
from configs.schema_commands import ReshardConfig


def reshard(command: ReshardConfig) -> Path:
    """Replace the newest good checkpoint by one of whole parameters; return its folder.

    Raises ValueError if the run is in use or has no checkpoint, OSError if the new one does not fit beside the old.
    """
    if not (Path(command.run) / "checkpoints").is_dir():
        raise ValueError(f"run={command.run} is no run directory: it has no checkpoints/")
    # Seconds to import, with torch: not for --help and mistakes on the command line.
    with stage(LOADING_TORCH):
        from pretrain.checkpoints.reading import newest_good_of
        from pretrain.checkpoints.resharding import rewrite_whole
        from pretrain.run_directory import lock

    with lock(Path(command.run)), stage("comparing checkpoints with their manifests"):
        folder = newest_good_of(Path(command.run))
        rewrite_whole(folder, command.files)
        return folder


def main(command: ReshardConfig) -> None:
    """Reshard, and print the new files."""
    folder = reshard(command)
    print(f"{folder} now holds whole parameters; pretrain goes on from it on any number of ranks, in any ZeRO stage:")
    for file in sorted(folder.iterdir()):
        print(f"  {file.name}  {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    run(ReshardConfig, main, sys.argv[1:])
