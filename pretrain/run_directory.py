"""Run directory: its lock, config.yaml and the copy of the tokenizer."""

from __future__ import annotations

import fcntl
import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import IO

import yaml

from configs.compose import to_yaml
from configs.keys import flat
from configs.schema import PretrainConfig
from data_shards.files import replace_text
from data_shards.shards.index import load_index
from data_shards.shards.index_file import TOKENIZER_NAME
from data_shards.text.stored_tokenizer import tokenizer_folder
from data_shards.text.tokenizer import load_tokenizer
from pretrain.checkpoints.folders import checkpoint_folders
from pretrain.checkpoints.manifest import MANIFEST

CONFIG = "config.yaml"
_FILES = (CONFIG, "metrics.jsonl", "bad_steps.jsonl", TOKENIZER_NAME)
"""Files of a run that its next start overwrites."""
_REVISION = "# revision: "
"""Beginning of a comment in every config.yaml that a run has written."""
_LOCK = re.compile(r"process \d+ on .*")
"""Content of the lock of every run."""
_PACKAGES = ("torch", "deepspeed", "webdataset", "numpy")


def lock(folder: Path) -> IO[str]:
    """Lock the directory until the returned file is closed or the process ends, even if it is killed.

    Raises ValueError that names the directory if another run holds the lock, if it holds somebody else's files, or if
    it cannot be made or written.
    """
    _check_own(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise ValueError(f"run.dir={folder} cannot be written ({error.strerror}): choose another run.dir") from None
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


def _check_own(folder: Path) -> None:
    """Raise ValueError if files lie where a run writes its own, and nothing shows that a run has written them."""
    lock_text = _text(folder / "lock")
    if _LOCK.fullmatch(lock_text) or _REVISION in _text(folder / CONFIG):
        return
    names = [name for name in ("lock", *_FILES) if os.path.lexists(folder / name)]
    if not lock_text and "lock" in names:  # a start that was killed at its very beginning
        names.remove("lock")
    checkpoints = checkpoint_folders(folder / "checkpoints") if names else []
    if names and not any((checkpoint / MANIFEST).is_file() for checkpoint in checkpoints):
        raise ValueError(
            f"run.dir={folder} holds {names[0]}, and it was not written by a run: choose another run.dir, or move the "
            "file away"
        )


def _text(path: Path) -> str:
    """Content of a file of somebody; "" if it is a folder."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def write_config(folder: Path, config: PretrainConfig, world: int) -> tuple[str, str]:
    """Write RUN/config.yaml, with versions and revision as comments; return its changes and its text.

    The changes against the previous file are "key: old -> new, ..."; "" without changes or without such a file.
    """
    notes = {package: version(package) for package in _PACKAGES}
    notes |= {"python": platform.python_version(), "ranks": str(world), "revision": _revision()}
    text = to_yaml(config, notes)
    path = folder / CONFIG
    changes = _changes(path.read_text(encoding="utf-8", errors="replace"), text) if path.is_file() else ""
    replace_text(path, text)
    return changes, text


def keep_tokenizer(run: Path, config: PretrainConfig) -> None:
    """Copy the tokenizer of a run on text to RUN/tokenizer, for exports and pictures.

    Raises ValueError if the tokenizer beside the shards is not the one that the shards were made with.
    """
    if "text" not in config.modalities:
        return
    index = load_index(config.for_modality("text").data)
    if index.tokenizer is None:  # tars of another program have none
        return
    folder, remedy = tokenizer_folder(index), "put the old files back, or build the shards anew"
    try:
        tokenizer = load_tokenizer(folder)
    except ValueError as error:
        raise ValueError(f"{error}: {remedy}") from None
    if tokenizer.entry != index.tokenizer:
        raise ValueError(f"{folder} is not the tokenizer that its shards were made with (index.json): {remedy}")
    tokenizer.save(run / TOKENIZER_NAME)


def _changes(old: str, new: str) -> str:
    try:
        before, after = flat(yaml.safe_load(old)), flat(yaml.safe_load(new))
    except (yaml.YAMLError, ValueError, RecursionError):
        return "unknown, since the config.yaml before was damaged"
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return ", ".join(f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys)


def _revision() -> str:
    """Git revision of this code, followed by + if files were changed; "unknown" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
