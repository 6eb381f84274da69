"""Checks of shards against their index. Every difference is reported with its file and key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from configs.command import told
from configs.output.stages import stage
from configs.schema_training import Patterns
from data_shards.files import file_sha256
from data_shards.kinds import KINDS, nothing_known
from data_shards.making.earlier import wrote_tokenizer
from data_shards.making.indexer import file_size, key_hashes, shared_keys
from data_shards.processes import map_unordered
from data_shards.progress import shards_progress
from data_shards.shards.index_file import INDEX_NAME, TOKENIZER_NAME, FolderIndex, ShardEntry, read_folder_index, totals
from data_shards.shards.patterns import local_shards
from data_shards.shards.sidecar import crc32, read_rows, sidecar
from data_shards.shards.tar import Members, best_effort_name, parse_sample, scan
from data_shards.text.tokenizer import load_tokenizer

_SHOWN = 20
"""Most samples listed per shard."""


class _Job(NamedTuple):
    """Arguments of the check of one shard, for another process."""

    path: Path
    entry: ShardEntry | None
    vocab_size: int | None
    deep: bool


@dataclass
class _Findings:
    """Results of the check of one shard."""

    path: Path
    lines: list[str] = field(default_factory=list)
    samples: int = 0
    keys: np.ndarray | None = None
    """Hashes of the keys, uint64 [samples]; None if a key cannot be read."""
    other_sha256: str = ""
    """sha256 of the tar if it differs from index.json, else ""."""


def _decoding_problem(members: Members, vocab_size: int | None, indexed: int) -> str:
    """Return the reason why a sample cannot be decoded or has another length than `indexed`, "" if all is well."""
    found = [(name, kind.decode) for kind in KINDS for name in kind.extensions if name in members]
    if not found:
        return nothing_known(members)
    for number, (extension, decode) in enumerate(found):
        try:
            length = decode(members[extension], vocab_size)
        except Exception as error:  # codecs raise any exception on damaged bytes
            return f".{extension}: {error}"
        if number == 0 and length != indexed:  # the index has the length of the first
            return f".{extension}: length {indexed} by the index, {length} decoded; index the shard again"
    return ""


def _sample_differences(path: Path, rows: np.ndarray, deep: bool, vocab_size: int | None) -> Iterator[str]:
    """Yield a line per sample whose bytes differ from the sidecar or, if `deep`, cannot be decoded."""
    with path.open("rb") as file:
        for row, (offset, size, crc, length) in enumerate(rows.tolist()):
            try:
                file.seek(offset)
                blocks = file.read(size)
            except (OSError, OverflowError, ValueError) as error:
                yield f"{path}: row {row}: {size} bytes at byte {offset} cannot be read: {error}"
                continue
            if len(blocks) < size:
                yield f"{path}: row {row}: {size - len(blocks)} of {size} bytes lie behind the end of the file"
            elif crc32(blocks) != crc:
                yield f"{path}: {best_effort_name(blocks, row)}: checksum differs"
            elif deep and (reason := _decoding_problem(_members(blocks), vocab_size, length)):
                yield f"{path}: {best_effort_name(blocks, row)}: {reason}"


def _members(blocks: bytes) -> Members:
    """Members of a sample; none if it cannot be parsed, since `tar.scan` reports the reason."""
    try:
        return parse_sample(blocks)[1]
    except Exception:  # tarfile raises any exception on bytes that are no tar
        return {}


def _truncated(path: Path, lines: Iterable[str]) -> list[str]:
    """The first `_SHOWN` lines, and the number of the others."""
    listed = list(lines)
    if len(listed) > _SHOWN:
        listed[_SHOWN:] = [f"{path}: ... and {len(listed) - _SHOWN} samples more"]
    return listed


def _check_keys(checked: _Findings, rows: np.ndarray) -> None:
    """Check the names and places of the samples by `tar.scan`, and hash the keys."""
    try:
        spans = scan(checked.path)
    except ValueError as error:
        checked.lines.append(str(error))
        return
    checked.keys = key_hashes(span.key for span in spans)
    places = np.array([(span.offset, span.size) for span in spans], np.int64).reshape(-1, 2)
    indexed = np.stack([rows["offset"], rows["size"]], axis=1).astype(np.int64)
    if not np.array_equal(places, indexed):
        checked.lines.append(
            f"{checked.path}: its {len(places)} samples do not lie where the {len(rows)} rows of its sidecar say"
        )


def _check_sidecar(checked: _Findings, entry: ShardEntry) -> np.ndarray:
    """Check the sidecar against index.json, and return its rows. Raises ValueError or OSError if it cannot be read."""
    path = sidecar(checked.path)
    rows = read_rows(checked.path)
    if len(rows) != entry.nsamples:
        checked.lines.append(f"{path}: {len(rows)} samples, index.json says {entry.nsamples}")
    lengths = int(rows["length"].sum(dtype=np.int64)), int(rows["length"].max(initial=0))
    if lengths != (said := (entry.length_sum, entry.length_max)):
        checked.lines.append(f"{path}: sum and maximum of lengths {lengths}, index.json says {said}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != entry.idx_sha256:
        checked.lines.append(f"{path}: sha256 differs from index.json")
    return rows


def _check_shard(job: _Job) -> _Findings:
    """Compare a shard with its entry in index.json and with its sidecar. `_report_lines` judges its sha256."""
    checked = _Findings(job.path)
    if job.entry is None:
        checked.lines.append(f"{job.path}: not in index.json")
    elif not job.path.is_file():
        checked.lines.append(f"{job.path}: in index.json, but missing")
    else:
        try:
            _check_content(checked, job.entry, job)
        except (ValueError, OSError) as error:
            checked.lines.append(told(error))
    return checked


def _check_content(checked: _Findings, entry: ShardEntry, job: _Job) -> None:
    """Check size, sidecar, samples, keys and sha256 of a shard that exists."""
    path, lines = checked.path, checked.lines
    if (size := path.stat().st_size) != entry.filesize:
        lines.append(f"{path}: {size} bytes, index.json says {entry.filesize}")
    rows = _check_sidecar(checked, entry)
    checked.samples = len(rows)
    lines += _truncated(path, _sample_differences(path, rows, job.deep, job.vocab_size))
    _check_keys(checked, rows)
    if (sha256 := file_sha256(path)) != entry.sha256:
        checked.other_sha256 = sha256


def _report_lines(checked: _Findings, index: FolderIndex) -> list[str]:
    """Lines about one shard. A foreign sha256 is looked up among the folder's shards: two may be exchanged."""
    path = checked.path
    twin = checked.other_sha256 and next(
        (other.url for other in index.shards if other.sha256 == checked.other_sha256), None
    )
    if twin:
        return [f"{path}: holds what index.json says of {twin}: exchanged, or one copied over the other"]
    if checked.other_sha256 and not checked.lines:
        return [f"{path}: sha256 differs from index.json, outside the samples"]
    return checked.lines


def _totals_differences(folder: Path, index: FolderIndex) -> list[str]:
    """Lines about totals of index.json that are not the sums over its shards."""
    path = folder / INDEX_NAME
    if not path.is_file():
        return []
    said = json.loads(path.read_bytes()).get("totals", {})
    return [
        f"{path}: totals.{key} is {said.get(key)}, the sum over its shards {value}"
        for key, value in totals(index.shards).items()
        if said.get(key) != value
    ]


def _tokenizer_differences(folder: Path, index: FolderIndex) -> list[str]:
    """Lines about a tokenizer that is missing, damaged or not the one that made the token ids.

    If a build wrote it, its settings are compared, too: no token depends on them, but what is exported does.
    """
    if index.tokenizer is None:
        return []
    path = folder / TOKENIZER_NAME
    try:
        found = load_tokenizer(path)
        if found.entry != index.tokenizer:
            return [f"{path}: not the tokenizer that index.json says made the token ids"]
        files = {path / name: text.encode() for name, text in found.files.items()} if wrote_tokenizer(folder) else {}
        return [f"{file}: changed since it was built" for file, text in files.items() if file.read_bytes() != text]
    except (ValueError, OSError) as error:
        return [told(error)]


def _jobs(paths: list[Path], folders: dict[Path, FolderIndex], deep: bool) -> Iterator[_Job]:
    """Yield the arguments of each shard's check."""
    entries = {folder / entry.url: entry for folder, index in folders.items() for entry in index.shards}
    for path in paths:
        tokenizer = folders[path.parent].tokenizer
        yield _Job(path, entries.get(path), tokenizer.vocab_size if tokenizer else None, deep)


def validate_shards(shards: Patterns, deep: bool = False, workers: int | None = None) -> tuple[list[str], int]:
    """(lines that name every difference of the shards from their index, number of shards).

    deep: decode every image and recording, and check every token id; workers: processes, None for one per core.
    Raises ValueError if `shards` names none.
    """
    with stage("reading the index"):
        paths = local_shards(shards)
        folders = {folder: read_folder_index(folder) for folder in sorted({path.parent for path in paths})}
        sizes = {path: file_size(path) for path in paths}
    found: dict[Path, _Findings] = {}
    with shards_progress("validate", sum(sizes.values()), len(paths)) as progress:
        for checked in map_unordered(_check_shard, _jobs(paths, folders, deep), workers):
            found[checked.path] = checked
            progress.add(sizes[checked.path], checked.samples)
    lines = [
        line
        for folder, index in folders.items()
        for line in (*_totals_differences(folder, index), *_tokenizer_differences(folder, index))
    ]
    lines += [line for path in paths for line in _report_lines(found[path], folders[path.parent])]
    shared = shared_keys((path, one.keys) for path, one in found.items() if one.keys is not None)
    return [*lines, *shared.values()], len(paths)
