"""Local sidecars compared with the checksums in index.json at the start, and remembered in the cache's own folder.

A bit that differs in a sidecar changes lengths, and so the order of samples and their crops, without any other sign.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from configs.command import LASTING
from data_shards.files import locked, replace_text
from data_shards.shards.cache import own_folder
from data_shards.shards.index_file import REMEDY, ShardEntry
from data_shards.shards.sidecar import read_rows, sidecar, sidecar_size
from data_shards.shards.storage import Unreachable

log = logging.getLogger(__name__)

Facts = list[str | int]
"""Memory of a sidecar: sha256, size, times of the last change of content and of inode, number of inode."""

_READERS = 16  # files read at a time: a file server takes milliseconds for each
_SETTLED_S = 2.0  # age below which a file may change once more within the same tick of its file system's clock


def check_sidecars(shards: Sequence[tuple[Path, ShardEntry]], cache_dir: Path) -> None:
    """Compare the sidecars of local shards with index.json. Sidecars that were compared before are not read again.

    cache_dir: `data.cache_dir`; if the cache cannot be there, nothing is remembered. Raises ValueError that names the
    first sidecar that is missing or differs; OSError if one may not be read, Unreachable if it cannot be for now.
    """
    for folder, members in groupby(shards, key=lambda shard: shard[0].parent):
        with _memory(folder, cache_dir) as memory:  # the other ranks of the node wait, and find the result
            _check_folder(list(members), memory)


@contextmanager
def _memory(folder: Path, cache_dir: Path) -> Iterator[Path | None]:
    """Lock and give the file that remembers a folder's sidecars; None if there can be none."""
    memory = None
    with ExitStack() as held:
        try:
            place = own_folder(cache_dir) / "verified"
            place.mkdir(exist_ok=True)
            held.enter_context(locked(place))
            path = os.path.realpath(folder).encode("utf-8", "surrogateescape")
            memory = place / f"{hashlib.sha256(path).hexdigest()[:32]}.json"
        except (OSError, ValueError) as error:
            log.info("sidecars are read anew at each start: %s", error)
        yield memory


def _check_folder(shards: list[tuple[Path, ShardEntry]], memory: Path | None) -> None:
    known = _read(memory)["sidecars"] if memory else {}
    facts = {path: _facts(path, entry) for path, entry in shards}
    unknown = [(path, entry) for path, entry in shards if known.get(path.name) != facts[path]]
    if not unknown:
        return
    with ThreadPoolExecutor(min(_READERS, len(unknown))) as pool:
        differing = [path for path in pool.map(lambda shard: _differing(*shard), unknown) if path]
    if differing:
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise ValueError(
            f"{sidecar(differing[0])} is not the sidecar that index.json promises{more}: it was changed or "
            f"damaged; copy it there again, or make both anew: {REMEDY}{differing[0]}"
        )
    settled = time.time_ns() - int(_SETTLED_S * 1e9)
    sound = {path.name: facts[path] for path, _ in unknown if max(map(int, facts[path][2:4])) < settled}
    if memory and sound:
        _write(memory, shards[0][0].parent, known | sound)


def _facts(shard: Path, entry: ShardEntry) -> Facts:
    """Return the facts to remember of a shard's sidecar if it is sound. Raises ValueError if there is none."""
    try:
        status = sidecar(shard).stat()
    except FileNotFoundError:
        raise ValueError(f"{shard} has no sidecar {sidecar(shard).name}; make it: {REMEDY}{shard}") from None
    except OSError as error:
        raise _unreadable(sidecar(shard), error) from error
    return [entry.idx_sha256, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _differing(shard: Path, entry: ShardEntry) -> Path | None:
    """Return the shard if its sidecar differs from its entry.

    Raises Unreachable or OSError if it cannot be read, ValueError if its rows are not as many as index.json says.
    """
    try:
        data = sidecar(shard).read_bytes()
    except OSError as error:
        raise _unreadable(sidecar(shard), error) from error
    if hashlib.sha256(data).hexdigest() != entry.idx_sha256:
        return shard
    if len(data) != sidecar_size(entry.nsamples) and len(read_rows(shard)) != entry.nsamples:
        raise ValueError(
            f"{sidecar(shard)} has {len(read_rows(shard))} rows, index.json says {entry.nsamples}; make both anew: "
            f"{REMEDY}{shard}"
        )
    return None


def _unreadable(path: Path, error: OSError) -> Exception:
    """Return Unreachable; the error itself if it stays until somebody mends it."""
    return error if error.errno in LASTING else Unreachable(f"{path}: {error.strerror}")


def _read(memory: Path) -> dict[str, Any]:
    """Return the folder, and the facts by name of the shard; none of them if the file cannot be read."""
    try:
        found = json.loads(memory.read_text("utf-8"))
        return {"folder": str(found["folder"]), "sidecars": dict(found["sidecars"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"folder": "", "sidecars": {}}


def _write(memory: Path, folder: Path, known: dict[str, Facts]) -> None:
    """Remember a folder's sidecars, and forget those of folders that are gone."""
    try:
        for other in memory.parent.glob("*.json"):
            if not os.path.isdir(_read(other)["folder"]):
                other.unlink()
        replace_text(memory, json.dumps({"folder": os.path.realpath(folder), "sidecars": known}))
    except OSError as error:
        log.info("sidecars are read anew at the next start: %s", error)
