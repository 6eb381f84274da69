"""Files to shards: planned from sizes, written by several processes, continued where it was killed.

    OUTPUT/train-000000.tar ...   the shards, their sidecars, and index.json once all are there
    OUTPUT/.build/NAME/           a record per finished shard: the hash of its plan, and its entry for index.json

A shard is finished if its record has the hash of its plan and its tar has the record's size. Nothing else is known of
earlier builds, so the same command continues one that was killed and gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from configs.schema import BuildConfig
from data_shards.index import FolderIndex, ShardEntry, read_folder_index, sidecar
from data_shards.processes import each
from data_shards.sources import Item, Split, open_source
from data_shards.tar import BLOCK
from data_shards.writer import locked, replacing, save_folder_index, write_shard

_FORMAT = 1  # of the shards' bytes; a change makes every shard unfinished
_MIB = 2**20


def record_folder(output: Path, name: str) -> Path:
    """Where the records of the shards NAME-000000.tar are."""
    return output / ".build" / name


@dataclass(frozen=True)
class ShardPlan:
    """What one shard will hold."""

    path: Path
    items: tuple[Item, ...]

    def digest(self) -> str:
        """Hash of everything the shard's bytes depend on."""
        facts = [(i.key, Path(i.path).suffix, i.size, i.label, i.row, i.modified) for i in self.items]
        return hashlib.sha256(repr((_FORMAT, facts)).encode("utf-8", "surrogateescape")).hexdigest()

    @property
    def record(self) -> Path:
        """The file that says that the shard is finished."""
        return record_folder(self.path.parent, self.path.name.rpartition("-")[0]) / f"{self.path.stem}.json"

    def finished(self) -> ShardEntry | None:
        """The entry of the finished shard, if it is."""
        try:
            record = json.loads(self.record.read_text())
            entry = ShardEntry(**record["entry"])
            complete = record["plan"] == self.digest() and self.path.stat().st_size == entry.filesize
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return entry if complete and sidecar(self.path).is_file() else None


def _tar_size(item: Item) -> int:
    """Bytes of the item's members in a tar, about."""
    return 2 * BLOCK + item.size + (0 if item.label is None else 2 * BLOCK)


def plan_shards(split: Split, output: Path, shard_mb: int) -> list[ShardPlan]:
    """Cut the split's samples, in their order, into shards of at most `shard_mb` MiB (or one sample)."""
    plans: list[list[Item]] = []
    size = 0
    for item in split.items:
        if not plans or size + _tar_size(item) > shard_mb * _MIB or len(plans[-1]) >= split.shard_samples:
            plans.append([])
            size = 0
        plans[-1].append(item)
        size += _tar_size(item)
    return [ShardPlan(output / f"{split.name}-{i:06d}.tar", tuple(items)) for i, items in enumerate(plans)]


def _write(plan: ShardPlan) -> ShardEntry:
    """Write one shard; its record goes first and comes last."""
    plan.record.unlink(missing_ok=True)
    entry = write_shard(plan.path, ((item.key, item.members()) for item in plan.items))
    with replacing(plan.record) as file:
        file.write(json.dumps({"plan": plan.digest(), "entry": asdict(entry)}).encode())
    return entry


def _shards_of(folder: Path, name: str) -> set[Path]:
    """Tars that are called NAME-000000.tar."""
    return {path for path in folder.glob("*.tar") if re.fullmatch(rf"{re.escape(name)}-\d{{6}}\.tar", path.name)}


def _retract(split: Split, output: Path, plans: list[ShardPlan], unfinished: list[ShardPlan]) -> None:
    """Take what is about to change out of index.json, then off the disk.

    Raises ValueError where shards of this name are there that no build made, or the classes are not those of the rest.
    """
    there = _shards_of(output, split.name)
    if there and not record_folder(output, split.name).is_dir():
        raise ValueError(f"{min(there)} was not made by this command; choose another output or name, or move it away")
    index = read_folder_index(output)
    surplus = there - {plan.path for plan in plans}
    changed = {path.name for path in surplus} | {plan.path.name for plan in unfinished}
    kept = tuple(entry for entry in index.shards if entry.url not in changed)
    others = [entry for entry in kept if output / entry.url not in there]
    if others and list(index.classes) != split.classes:
        raise ValueError(f"{output} holds shards with other classes, as {others[0].url}; choose another output")
    if len(kept) < len(index.shards):
        save_folder_index(output, FolderIndex(kept, index.classes))
    for path in surplus:
        for file in (record_folder(output, split.name) / f"{path.stem}.json", sidecar(path), path):
            file.unlink(missing_ok=True)


def _build_split(split: Split, output: Path, config: BuildConfig) -> None:
    """Write the shards of one split that are not finished, then index.json."""
    plans = plan_shards(split, output, config.shard_mb)
    finished = {plan.path.name: plan.finished() for plan in plans}
    unfinished = [plan for plan in plans if finished[plan.path.name] is None]
    _retract(split, output, plans, unfinished)
    record_folder(output, split.name).mkdir(parents=True, exist_ok=True)
    entries = {name: entry for name, entry in finished.items() if entry}
    bar = tqdm(total=len(split.items), initial=sum(e.nsamples for e in entries.values()), unit=" samples", disable=None)
    with bar:
        bar.set_description(split.name)
        for entry in each(_write, unfinished, config.workers):
            entries[entry.url] = entry
            bar.update(entry.nsamples)
    others = [e for e in read_folder_index(output).shards if e.url not in entries]
    save_folder_index(output, FolderIndex((*others, *entries.values()), tuple(split.classes)))


def build(config: BuildConfig) -> list[str]:
    """Build the shards of `config`, or continue to; returns lines that say what was done.

    Raises ValueError for what the user can mend (see `sources`), OSError where the disk is full or not readable.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.-]*[A-Za-z0-9_-]", config.name):
        raise ValueError(f"name={config.name!r} is to be part of a file name; use letters, digits, - and _")
    output = Path(config.output).expanduser()
    lines = []
    for split in open_source(config):
        with locked(output):
            _build_split(split, output, config)
        shards = len(plan_shards(split, output, config.shard_mb))
        classes = f"{len(split.classes)} classes" if split.classes else "no labels"
        lines += [*split.notes, f"{split.name}: {len(split.items):,} samples in {shards} shards, {classes}: {output}"]
    return list(dict.fromkeys(lines))
