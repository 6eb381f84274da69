"""A run directory: one process tree at a time, and what the run was."""

from __future__ import annotations

import fcntl
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import IO

from configs.compose import to_yaml
from configs.schema import PretrainConfig
from pretrain.checkpoint import write_text

_PACKAGES = ("torch", "deepspeed", "webdataset", "numpy")


def lock(folder: Path) -> IO[str]:
    """Take the directory until the returned file is closed or the process ends, however it ends.

    Raises ValueError that names the directory where another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        remedy = "wait for it, stop it, or choose another run.dir"
        raise ValueError(f"run.dir={folder} is in use by {holder}: {remedy}") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}")
    file.flush()
    return file


def write_config(folder: Path, config: PretrainConfig, world: int) -> str:
    """Write RUN/config.yaml, with versions and revision as comments; returns its text."""
    notes = {package: version(package) for package in _PACKAGES}
    notes |= {"python": platform.python_version(), "ranks": str(world), "revision": _revision()}
    text = to_yaml(config, notes)
    write_text(folder / "config.yaml", text)
    return text


def _revision() -> str:
    """The git revision of this code, with a plus sign where files were changed; "unknown" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
