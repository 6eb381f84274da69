"""Run directory: its lock, config.yaml and the copy of the tokenizer."""

from __future__ import annotations

import fcntl
import os
import platform
import re
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import IO

import yaml

from configs.compose import to_yaml
from configs.keys import build, flat, plain, set_value
from configs.schema import PretrainConfig
from data_shards.files import replace_text
from data_shards.shards.index import load_index
from data_shards.shards.index_file import TOKENIZER_NAME
from data_shards.text.stored_tokenizer import tokenizer_folder
from data_shards.text.tokenizer import load_tokenizer
from pretrain.checkpoints.folders import LATEST, PREFIX, REMOVED, REPLACED, STAGING, checkpoint_folders
from pretrain.checkpoints.manifest import MANIFEST
from pretrain.health.rank_agreement import PATH_KEYS
from pretrain.reporting.metrics_file import read_rows

CONFIG = "config.yaml"
_FILES = (CONFIG, "metrics.jsonl", "bad_steps.jsonl", "STOP", TOKENIZER_NAME)
"""Files of a run that its next start overwrites or removes."""
_WRITTEN = re.compile(rf"{LATEST}|({STAGING}|{REPLACED}|{REMOVED}){PREFIX}[0-9]+")
"""Names in RUN/checkpoints that a start overwrites or removes."""
_LOCK = re.compile(r"process \d+ on .*")
"""Content of the lock of every run."""
_PACKAGES = ("torch", "deepspeed", "webdataset", "numpy")
_NOTES = (*_PACKAGES, "python", "ranks", "revision")
"""Comments in every config.yaml that a run has written."""
_PATIENCE_S = 35.0
"""Time in seconds for which NFS may hide a file that another node has just made."""


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


def lock_text(folder: Path) -> str:
    """Return what the lock of a run directory says of its holder."""
    return _text(folder / "lock")


def sees_lock(folder: Path, text: str) -> bool:
    """Return True if `folder` holds the lock with this text, False if it still does not after half a minute."""
    end = time.monotonic() + _PATIENCE_S
    while (seen := lock_text(folder) == text) is False and time.monotonic() < end:
        time.sleep(0.5)
    return seen


def refuse_lost(config: PretrainConfig) -> None:
    """Raise ValueError if a run without a checkpoint must have had one: its disk may not be mounted.

    While the second checkpoint is begun, the first is finished, or has failed.
    """
    metrics, every = Path(config.run.dir) / "metrics.jsonl", config.checkpoint.every
    steps = [row["step"] for row in read_rows(metrics)] if metrics.is_file() else []
    if every and steps and steps[-1] > 2 * every:
        raise ValueError(
            f"{metrics} tells of step {steps[-1]}, and {config.run.dir}/checkpoints holds no checkpoint, though one is "
            f"saved every {every} steps: bring them back, or move metrics.jsonl away to begin anew"
        )


def _check_own(folder: Path) -> None:
    """Raise ValueError if files lie where a run writes its own, and nothing shows that a run has written them."""
    holder = lock_text(folder)
    if _LOCK.fullmatch(holder) or _is_own_config(_text(folder / CONFIG)):
        return
    names = [name for name in ("lock", *_FILES) if os.path.lexists(folder / name)]
    if not holder and "lock" in names:  # a start that was killed at its very beginning
        names.remove("lock")
    names += [f"checkpoints/{name}" for name in _listed(folder / "checkpoints") if _WRITTEN.fullmatch(name)]
    checkpoints = checkpoint_folders(folder / "checkpoints") if names else []
    if names and not any((checkpoint / MANIFEST).is_file() for checkpoint in checkpoints):
        raise ValueError(
            f"run.dir={folder} holds {names[0]}, and it was not written by a run: choose another run.dir, or move the "
            "file away"
        )


def _is_own_config(text: str) -> bool:
    return all(re.search(rf"^# {note}: ", text, re.MULTILINE) for note in _NOTES)


def _listed(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def _text(path: Path) -> str:
    """Content of a file of somebody; "" if it is a folder."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def write_config(folder: Path, config: PretrainConfig, world: int) -> tuple[str, str]:
    """Write RUN/config.yaml, with versions and revision as comments; return its changes and its text.

    Relative paths are written whole: other commands read the file from other folders.
    The changes against the previous file are "key: old -> new, ..."; "" without changes or without such a file.
    """
    notes = {package: version(package) for package in _PACKAGES}
    notes |= dict(zip(_NOTES[len(_PACKAGES) :], (platform.python_version(), str(world), _revision()), strict=True))
    text = to_yaml(_with_whole_paths(config), notes)
    path = folder / CONFIG
    changes = _changes(path.read_text(encoding="utf-8", errors="replace"), text) if path.is_file() else ""
    replace_text(path, text)
    return changes, text


def _with_whole_paths(config: PretrainConfig) -> PretrainConfig:
    values = plain(config)
    for key, given in flat(values).items():
        if key in PATH_KEYS:
            set_value(values, key, _whole(given) if isinstance(given, str) else [_whole(path) for path in given])
    return build(PretrainConfig, values)


def _whole(path: str) -> str:
    """Return a path, glob or braces from the root on; what is empty or remote stays."""
    return path if not path or "://" in path else os.path.join(os.getcwd(), os.path.expanduser(path))


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
