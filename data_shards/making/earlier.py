"""Earlier builds of shards of one name: the files that they made, and the keys that they were given.

    OUTPUT/.build/NAME/build.json         the keys of the last build of the shards NAME-000000.tar
    OUTPUT/.build/NAME/NAME-000000.json   the record of a shard; it is there from the shard's first byte on
    OUTPUT/.build/NAME/tokenizer          present if a build wrote OUTPUT/tokenizer
    OUTPUT/.build/writers.lock            held by every process that writes a shard

A build changes and removes only files that have a record, and only if it has the keys of the build before, or
`overwrite=true`.
"""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from configs.output.secrets import masked
from configs.schema_commands import BuildConfig
from configs.schema_modalities import is_command_or_url
from data_shards.files import PARTIAL, replace_text
from data_shards.shards.index_file import TOKENIZER_NAME
from data_shards.shards.sidecar import sidecar
from data_shards.text.tokenizer import Tokenizer, load_tokenizer

_FREE = ("output", "staging", "name", "workers", "executor", "address", "overwrite")
"""Keys that do not change a shard's content."""
_WRITERS = "writers.lock"
_PATHS = ("input", "tokenizer")


def record_folder(output: Path, name: str) -> Path:
    """Folder of the records of the shards NAME-000000.tar."""
    return output / ".build" / name


def left_out_path(output: Path, name: str) -> Path:
    """Path of the list of everything that was left out of the shards NAME-000000.tar."""
    return record_folder(output, name) / "left_out.tsv"


def record_path(shard: Path) -> Path:
    """Path of the record of the shard FOLDER/NAME-000000.tar."""
    return record_folder(shard.parent, shard.name.rpartition("-")[0]) / f"{shard.stem}.json"


def existing_shards(output: Path, name: str) -> set[Path]:
    """Paths NAME-000000.tar of which a tar, a sidecar or a temporary file exists.

    Raises ValueError if such a file was made by no build.
    """
    pattern = re.compile(rf"({re.escape(name)}-\d{{6}})(\.tar|\.idx\.npy)({re.escape(PARTIAL)})?")
    files = {path: match[1] for path in output.iterdir() if (match := pattern.fullmatch(path.name))}
    shards = {path: output / f"{stem}.tar" for path, stem in files.items()}
    if foreign := [path for path, shard in shards.items() if not record_path(shard).is_file()]:
        raise ValueError(f"{min(foreign)} was not made by this command; choose another output or name, or move it away")
    return set(shards.values())


def _keys(config: BuildConfig) -> dict[str, object]:
    """The keys that determine the shards' content, with absolute paths."""
    keys = {key: value for key, value in asdict(config).items() if key not in _FREE}
    return keys | {key: _absolute(str(keys[key])) for key in _PATHS if keys[key]}


def _absolute(path: str) -> str:
    """Absolute form of a path; of a URL or a command, the text without credentials."""
    return masked(path) if is_command_or_url(path) else str(Path(path).expanduser().resolve())


def save_keys(config: BuildConfig, output: Path, name: str) -> None:
    """Record the keys of this build of the shards NAME-000000.tar."""
    write_keys(_keys(config), output, name)


def write_keys(keys: dict[str, object], output: Path, name: str) -> None:
    """Record what determines the content of the shards NAME-000000.tar."""
    record_folder(output, name).mkdir(parents=True, exist_ok=True)
    replace_text(record_folder(output, name) / "build.json", json.dumps(keys, indent=1) + "\n")


@contextmanager
def writing(shard: Path) -> Iterator[None]:
    """Say that this process writes a shard, as long as it does or lives: see `wait_for_writers`."""
    with (shard.parent / ".build" / _WRITERS).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def wait_for_writers(output: Path) -> None:
    """Return once no process writes a shard in `output`.

    Those of a build that was killed end a moment after it. Until then one could give its half of a file the name of a
    file that the next build writes.
    """
    (output / ".build").mkdir(parents=True, exist_ok=True)
    with (output / ".build" / _WRITERS).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


def remove_shard(path: Path) -> None:
    """Remove a shard, and at last the record that says that it is ours."""
    for file in (path, sidecar(path), record_path(path)):
        file.unlink(missing_ok=True)


def check_name(name: str) -> None:
    """Raise ValueError if a name cannot be that of shards."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]*[A-Za-z0-9_-]", name):
        raise ValueError(f"name={name!r} is to be part of a file name; use letters, digits, - and _")


def read_keys(output: Path, name: str) -> dict[str, object]:
    """The keys of the last build; empty if a version before `build.json` made it."""
    try:
        keys = json.loads((record_folder(output, name) / "build.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return keys if isinstance(keys, dict) else {}


def check_same_build(config: BuildConfig, output: Path, name: str, changing: Iterable[Path]) -> None:
    """Raise ValueError if shards that another build made are about to change, unless `overwrite=true`.

    changing: shards that exist and are about to be replaced or removed. It is the same build if its keys are the same.
    """
    listed = sorted(changing)
    if not listed or config.overwrite:
        return
    now, before = _keys(config), read_keys(output, name)
    other = [key for key in now if key in before and now[key] != before[key]]
    if before and not other:
        return
    those, these = (" ".join(f"{key}={keys[key]}" for key in other) for keys in (before, now))
    raise ValueError(
        f"{listed[0]} was built with {those or 'unknown keys, by an earlier version'}; this build has "
        f"{these or f'input={config.input}'} and would replace or remove {len(listed)} such shards. Choose another "
        f"output or name, or replace all {name!r} shards there with overwrite=true"
    )


def wrote_tokenizer(output: Path) -> bool:
    """True if a build wrote OUTPUT/tokenizer."""
    return any(output.glob(".build/*/tokenizer"))


def check_tokenizer(tokenizer: Tokenizer, output: Path) -> None:
    """Raise ValueError if OUTPUT/tokenizer holds another tokenizer, or anything else, that no build wrote."""
    folder = output / TOKENIZER_NAME
    ours = not folder.is_symlink() and (not folder.exists() or wrote_tokenizer(output))
    if not ours and not _holds(folder, tokenizer):
        raise ValueError(
            f"{folder} was not made by this command, and is another tokenizer than this build's; move it away, or "
            f"choose another output"
        )


def save_tokenizer(tokenizer: Tokenizer, output: Path, name: str) -> None:
    """Write OUTPUT/tokenizer, unless it holds this tokenizer already."""
    if not _holds(output / TOKENIZER_NAME, tokenizer):
        (record_folder(output, name) / "tokenizer").touch()
        tokenizer.save(output / TOKENIZER_NAME)


def _holds(folder: Path, tokenizer: Tokenizer) -> bool:
    try:
        return load_tokenizer(folder).entry == tokenizer.entry
    except (OSError, ValueError):
        return False
