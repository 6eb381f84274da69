"""Building shards from source files: planned from sizes, written by several processes, resumable after a kill.

    OUTPUT/train-000000.tar ...   the shards, their sidecars, and index.json once all are there
    OUTPUT/.build/NAME/           a record per shard: the hash of its plan, and its entry for index.json
    OUTPUT/.build/NAME/left_out.tsv   every source item that became no sample, as lines `reason<TAB>name`

A shard is finished if its record has the hash of its plan and its tar has the record's size. The exception: a source
file was unreadable, because it may be readable now. So the same command continues a build that was killed, and gives
the same bytes. Another command does not touch the shards: see `earlier`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from configs.output.secrets import masked
from configs.output.stages import stage
from configs.schema_commands import BuildConfig
from data_shards.files import PARTIAL, atomic_write, locked, partial_of, replace_text
from data_shards.kinds import kind_of
from data_shards.making.earlier import (
    check_name,
    check_same_build,
    check_tokenizer,
    existing_shards,
    left_out_path,
    record_path,
    remove_shard,
    save_keys,
    save_tokenizer,
    wait_for_writers,
    writing,
)
from data_shards.making.executors import check_executor, run_jobs
from data_shards.making.writer import save_folder_index, write_shard
from data_shards.progress import shards_progress
from data_shards.sending.send import check_destination, send_shards
from data_shards.shards.index_file import TOKENIZER_NAME, FolderIndex, ShardEntry, TokenizerEntry, read_folder_index
from data_shards.shards.sidecar import sidecar
from data_shards.shards.storage import is_remote
from data_shards.shards.tar import BLOCK
from data_shards.sources.opening import open_source
from data_shards.sources.units import LeftOut, Split, Unit

_FORMAT = 2  # version of the shards' bytes; a change makes every shard unfinished
_MIB = 2**20


@dataclass(frozen=True)
class ShardPlan:
    """Path and content of one shard to be written."""

    path: Path
    units: tuple[Unit, ...]

    def digest(self) -> str:
        """Hash of everything that the shard's bytes depend on."""
        facts = [unit.facts() for unit in self.units]
        return hashlib.sha256(repr((_FORMAT, facts)).encode("utf-8", "surrogateescape")).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of the units, approximately the size of the tar."""
        return sum(unit.size for unit in self.units)

    @property
    def record(self) -> Path:
        """Path of the shard's record."""
        return record_path(self.path)

    def read_finished(self) -> WrittenShard | None:
        """The finished shard, according to its record; None if it is not finished."""
        try:
            record = json.loads(self.record.read_text("utf-8"))
            written = WrittenShard(ShardEntry(**record["entry"]), LeftOut(record["left_out"]))
            complete = record["plan"] == self.digest() and self.path.stat().st_size == written.entry.filesize
        except (OSError, ValueError, KeyError, TypeError):
            return None
        complete = complete and sidecar(self.path).is_file() and not written.left_out.worth_retrying
        return written if complete else None


@dataclass(frozen=True)
class WrittenShard:
    """A finished shard, and the source items that were left out of it."""

    entry: ShardEntry
    left_out: LeftOut


def plan_shards(split: Split, output: Path, shard_mb: int) -> list[ShardPlan]:
    """Cut the split's units, in their order, into shards of at most `shard_mb` MiB (or one unit)."""
    plans: list[list[Unit]] = []
    size = 0
    for unit in split.units:
        more = 2 * BLOCK + unit.size
        if not plans or size + more > shard_mb * _MIB or len(plans[-1]) >= split.shard_units:
            plans.append([])
            size = 0
        plans[-1].append(unit)
        size += more
    return [ShardPlan(output / f"{split.name}-{i:06d}.tar", tuple(units)) for i, units in enumerate(plans)]


def _write_planned(plan: ShardPlan) -> WrittenShard:
    """Write one shard. Its record says first that it is ours, and last that it is finished."""
    replace_text(plan.record, json.dumps({"begun": plan.path.name}))
    left_out = LeftOut()
    with writing(plan.path):
        entry = write_shard(plan.path, (sample for unit in plan.units for sample in unit.samples(left_out)))
    record = {"plan": plan.digest(), "entry": asdict(entry), "left_out": left_out.reasons}
    replace_text(plan.record, json.dumps(record))
    return WrittenShard(entry, left_out)


def _write_once(plan: ShardPlan) -> WrittenShard:
    """Write one shard, or find it written: a cluster that loses sight of a worker gives its job to another one."""
    with plan.record.with_suffix(".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        return plan.read_finished() or _write_planned(plan)


def _retract_changed(
    split: Split, output: Path, config: BuildConfig, plans: list[ShardPlan], finished: dict[str, WrittenShard]
) -> int:
    """Remove shards that are about to change from index.json, then surplus shards from the disk; returns their number.

    Raises ValueError if shards are in the way that another build made, or none, or if the folder's other shards have
    other classes or another tokenizer.
    """
    unfinished = [plan.path for plan in plans if plan.path.name not in finished]
    there = existing_shards(output, split.name)
    surplus = there - {plan.path for plan in plans}
    index = read_folder_index(output)
    changed = {path.name for path in (*surplus, *unfinished)}
    kept = tuple(entry for entry in index.shards if entry.url not in changed)
    others = [entry for entry in kept if output / entry.url not in there]
    if others and list(index.classes) != split.classes:
        raise ValueError(f"{output} holds shards with other classes, as {others[0].url}; choose another output")
    if others and index.tokenizer != _tokenizer(split):
        raise ValueError(
            f"{output} holds shards of another tokenizer, as {others[0].url}; choose another output, or the same one "
            f"with tokenizer={output / TOKENIZER_NAME}"
        )
    in_the_way = (path for path in surplus | there.intersection(unfinished) if path.exists())
    check_same_build(config, output, split.name, in_the_way)
    if split.tokenizer:
        check_tokenizer(split.tokenizer, output)
    if len(kept) < len(index.shards):
        save_folder_index(output, FolderIndex(kept, index.classes, index.tokenizer))
    for path in surplus:
        remove_shard(path)
    for path in there:  # left by a build that was killed
        for file in (path, sidecar(path)):
            partial_of(file).unlink(missing_ok=True)
    return len(surplus)


def _samples_there(name: str, output: Path) -> int:
    names = {path.name for path in existing_shards(output, name)}
    return sum(entry.nsamples for entry in read_folder_index(output).shards if entry.url in names)


def _tokenizer(split: Split) -> TokenizerEntry | None:
    return split.tokenizer.entry if split.tokenizer else None


def _build_split(split: Split, output: Path, config: BuildConfig) -> list[ShardEntry]:
    """Write the unfinished shards of one split, then index.json; returns the entries of all its shards.

    Raises ValueError if no sample is left.
    """
    wait_for_writers(output)
    plans, before = plan_shards(split, output, config.shard_mb), _samples_there(split.name, output)
    finished = {plan.path.name: shard for plan in plans if (shard := plan.read_finished())}
    if removed := _retract_changed(split, output, config, plans, finished):
        split.notes.append(f"removed {removed} {split.name!r} shards that the input no longer fills")
    save_keys(config, output, split.name)
    if split.tokenizer:
        save_tokenizer(split.tokenizer, output, split.name)
    written = _write_all(split.name, plans, finished, output, config)
    for one in sorted(written, key=lambda one: one.entry.url):
        split.left_out.merge(one.left_out)
    _save_left_out(split, output)
    entries = {one.entry.url: one.entry for one in written}
    samples = sum(entry.nsamples for entry in entries.values())
    if samples < before:
        split.notes.append(
            f"there were {before - samples:,} more {split.name!r} samples before, which the input lacks now"
        )
    if not samples:
        for plan in plans:  # or another input would find them in its way
            remove_shard(plan.path)
        notes = split.left_out.notes(left_out_path(output, split.name))
        raise ValueError("; ".join([f"{split.name}: no sample is left of input={config.input}", *notes]))
    others = [e for e in read_folder_index(output).shards if e.url not in entries]
    index = FolderIndex((*others, *entries.values()), tuple(split.classes), _tokenizer(split))
    save_folder_index(output, index)
    return list(entries.values())


def _write_all(
    name: str, plans: list[ShardPlan], finished: dict[str, WrittenShard], output: Path, config: BuildConfig
) -> list[WrittenShard]:
    """All shards of a split: the finished ones, and the others after they were written."""
    unfinished = {plan.path.name: plan for plan in plans if plan.path.name not in finished}
    write = _write_once if config.executor == "dask" else _write_planned
    sizes = {plan.path.name: plan.size for plan in plans}
    progress = shards_progress(name, sum(sizes.values()), len(plans), lambda: _begun_bytes(output, sizes))
    for url, shard in finished.items():
        progress.add(sizes[url], shard.entry.nsamples)
    written = list(finished.values())
    with progress:
        for shard in run_jobs(write, list(unfinished.values()), config):
            if not unfinished[shard.entry.url].path.is_file():
                shared = "input and output must be on a file system that all workers share, under the same paths"
                raise ValueError(f"{shard.entry.url} was written, but output={output} here does not have it: {shared}")
            written.append(shard)
            progress.add(sizes[shard.entry.url], shard.entry.nsamples)
    return written


def _begun_bytes(output: Path, sizes: dict[str, int]) -> int:
    """Bytes of the tars that are being written. Each counts for at most its planned size."""
    planned = ((path, sizes.get(path.name.removesuffix(PARTIAL), 0)) for path in output.glob(f"*.tar{PARTIAL}"))
    return sum(min(path.stat().st_size, size) for path, size in planned)


def _save_left_out(split: Split, output: Path) -> None:
    with atomic_write(left_out_path(output, split.name)) as file:
        file.write(split.left_out.to_tsv())


def _summary(split: Split, entries: list[ShardEntry], output: Path) -> str:
    """Line about a finished split."""
    length = sum(entry.length_sum for entry in entries)
    facts = [f"{sum(entry.nsamples for entry in entries):,} samples in {len(entries)} shards"]
    unit = kind_of(split.modality).unit
    if unit.summary:
        facts.append(unit.summary.format(length * unit.total_one))
    unnamed = "class numbers as they were" if split.numbered else "no labels"
    facts.append(f"{len(split.classes)} classes" if split.classes else unnamed)
    return f"{split.name}: {', '.join(facts)}: {output}"


def build(config: BuildConfig) -> list[str]:
    """Build the shards of `config`, or continue a build; returns lines about the result.

    Raises ValueError for mistakes that the user can mend (see `sources`), OSError if the disk is full or unreadable,
    Unreachable if a store does not answer.
    """
    if not is_remote(config.output):
        return _build_here(config)
    if not config.staging:
        raise ValueError(f"output={masked(config.output)} is sent when it is built: give a folder for it, staging=DIR")
    with stage(f"looking at {masked(config.output)}"):
        check_destination(config.output)
    lines = _build_here(replace(config, output=config.staging, staging=""))
    return [*lines, *send_shards(Path(config.staging), config.output, config.overwrite)]


def _build_here(config: BuildConfig) -> list[str]:
    """Build the shards in a folder of this machine."""
    check_name(config.name)
    check_executor(config)
    output = Path(config.output)
    lines = []
    with stage(f"reading {config.input or f'source={config.source}'}"):
        splits = open_source(config)
    for split in splits:
        with stage(f"planning and closing {split.name}"), locked(output):
            entries = _build_split(split, output, config)
        left_out = split.left_out.notes(left_out_path(output, split.name))
        lines += [*split.notes, *left_out, _summary(split, entries, output)]
    return list(dict.fromkeys(lines))
