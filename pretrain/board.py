"""Show the TensorBoard files of a run, or of all runs in a folder.

python -m pretrain.board run=DIR [port=6006]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from configs.command import run
from configs.schema_commands import BoardConfig


def main(command: BoardConfig) -> None:
    """Replace this process by TensorBoard. Raises ValueError if the folder holds no TensorBoard files."""
    folder = Path(command.run)
    if not any(folder.rglob("events.out.tfevents.*")):
        raise ValueError(f"run={folder} holds no TensorBoard files: give the folder of a run, or of several")
    tensorboard = [sys.executable, "-m", "tensorboard.main", f"--logdir={folder}"]
    os.execv(sys.executable, [*tensorboard, f"--port={command.port}", f"--host={command.host}"])


if __name__ == "__main__":
    run(BoardConfig, main, sys.argv[1:])
