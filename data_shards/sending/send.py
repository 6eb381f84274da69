"""Sending the shards of a folder to a store: their files first, index.json last, so no reader sees half of them.

FOLDER/.build/sent.jsonl   a line per file that was sent, and where to: a call that was killed goes on from there
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Any

from configs.output.secrets import masked
from configs.schema_training import DataConfig
from data_shards.files import file_sha256
from data_shards.progress import shards_progress
from data_shards.shards.index_file import (
    INDEX_NAME,
    TOKENIZER_NAME,
    FolderIndex,
    fetch_folder_index,
    read_folder_index,
)
from data_shards.shards.sidecar import sidecar
from data_shards.shards.storage import Storage, Unreachable, is_http, join_location, storage_of

_SENDERS = 4  # files sent at a time


def send_shards(folder: Path, url: str, overwrite: bool = False) -> list[str]:
    """Send the shards of a folder, with sidecars, tokenizer and index, to a store; returns a line about it.

    url: of the folder in the store, e.g. s3://bucket/train. Files that an earlier call has sent, and that are still
    there, are not sent again. overwrite: replace shards in `url` that were sent from elsewhere. Raises ValueError if
    there are such shards, or if `url` cannot be written; FileNotFoundError, PermissionError or Unreachable as the store
    says.
    """
    storage, index = storage_of(DataConfig()), read_folder_index(folder)
    theirs = check_destination(url)
    sent = _read_sent(folder, url)
    if not overwrite:
        _check_ours(theirs, index, sent, url)
    files = dict(_files(folder, index))
    there = _sizes(storage, url)
    due = {name: facts for name, facts in files.items() if sent.get(name) != facts or there.get(name) != facts["size"]}
    if any(entry.url in due or sidecar(Path(entry.url)).name in due for entry in theirs.shards):
        storage.remove(join_location(url, INDEX_NAME))  # it would promise files that are about to change
    _send_all(storage, folder, url, due)
    if due or theirs != index:
        storage.send(folder / INDEX_NAME, join_location(url, INDEX_NAME))
    size = sum(facts["size"] for facts in due.values())
    return [f"sent {len(due)} files ({size / 2**20:,.1f} MiB) and {INDEX_NAME}: {masked(url)}"]


def check_destination(url: str) -> FolderIndex:
    """Return the index of the shards that are at a URL; empty if there are none. Call it before the work of a build.

    Raises ValueError if nothing can be sent there, Unreachable if the store does not answer.
    """
    if is_http(url):
        raise ValueError(f"output={masked(url)} cannot be written: give a store, as s3://bucket/folder, or a folder")
    return fetch_folder_index(url, storage_of(DataConfig()))


def _check_ours(theirs: FolderIndex, index: FolderIndex, sent: dict[str, Any], url: str) -> None:
    """Raise ValueError if the store has shards that are neither of this folder nor were sent from it."""
    own = {(entry.url, entry.sha256) for entry in index.shards}
    own |= {(name, facts["sha256"]) for name, facts in sent.items()}
    foreign = [entry.url for entry in theirs.shards if (entry.url, entry.sha256) not in own]
    if foreign:
        raise ValueError(
            f"output={masked(url)} holds shards that were sent from elsewhere, as {foreign[0]}: choose another output, "
            f"or replace all that is there with overwrite=true"
        )


def _files(folder: Path, index: FolderIndex) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name below the folder, size and sha256) of every file but index.json."""
    for entry in index.shards:
        side = sidecar(folder / entry.url)
        yield entry.url, {"size": entry.filesize, "sha256": entry.sha256}
        yield side.name, {"size": side.stat().st_size, "sha256": entry.idx_sha256}
    if index.tokenizer:
        for path in sorted((folder / TOKENIZER_NAME).iterdir()):
            yield f"{TOKENIZER_NAME}/{path.name}", {"size": path.stat().st_size, "sha256": file_sha256(path)}


def _sizes(storage: Storage, url: str) -> dict[str, int]:
    """Return the size of each file below the URL by its name; none if there is nothing yet."""
    try:
        return {name: size for name, size, _ in storage.find(url)}
    except FileNotFoundError:
        return {}


def _send_all(storage: Storage, folder: Path, url: str, due: dict[str, Any]) -> None:
    """Send files, several at a time, and remember each. The first failure ends it, after those that are under way."""

    def one(name: str) -> str:
        storage.send(folder / name, join_location(url, name))
        return name

    progress = shards_progress("send", sum(facts["size"] for facts in due.values()), len(due))
    _record(folder).parent.mkdir(exist_ok=True)
    with progress, _record(folder).open("a", encoding="utf-8") as record, ThreadPoolExecutor(_SENDERS) as pool:
        jobs = [pool.submit(one, name) for name in due]
        try:
            for job in as_completed(jobs):
                name = job.result()
                record.write(json.dumps({"url": url, "name": name, **due[name]}) + "\n")
                record.flush()
                progress.add(due[name]["size"], 0)
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, Unreachable):
                raise Unreachable(f"{error}; the same command goes on once the store answers") from error
            raise


def _record(folder: Path) -> Path:
    return folder / ".build" / "sent.jsonl"


def _read_sent(folder: Path, url: str) -> dict[str, Any]:
    """Return what was sent to the URL: size and sha256 by name. A line that a kill has cut off counts for nothing."""
    sent = {}
    try:
        for line in _record(folder).read_text("utf-8").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                if row["url"] == url:
                    sent[row["name"]] = {"size": row["size"], "sha256": row["sha256"]}
    except (OSError, ValueError):
        return {}
    return sent
