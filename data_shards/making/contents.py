"""Contents of samples beyond the facts of the index: classes and, decoded, whether they can teach anything."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from data_shards.kinds import KINDS, nothing_known
from data_shards.processes import map_unordered
from data_shards.progress import shards_progress
from data_shards.shards.bad_sample import BadSample
from data_shards.shards.index import Index
from data_shards.shards.reader import Reader
from data_shards.shards.storage import is_remote, local_path, name_of
from data_shards.shards.tar import Data, read_member

_LABEL = "cls"
_NAMED = 3
"""Samples of each kind that are named."""
_SPARSE = 8
"""Below one sample in so many, single samples of a remote shard are fetched, and no chunks."""
_TITLE = 60
"""Widest column of class names."""
_UNEQUAL = 10
"""Classes are unequal if the largest has so many times the samples of the smallest."""
DAMAGED = "damaged"


@dataclass
class Noted:
    """Samples with something in common: their number, and the names of the first."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, names: Sequence[str], count: int = 1) -> None:
        """Count samples, with the names of some."""
        self.count += count
        self.names = [*self.names, *names][:_NAMED]

    def __str__(self) -> str:
        return ", ".join(self.names) + ", ..." * (self.count > len(self.names))


@dataclass
class Contents:
    """Counts over the samples that were looked into."""

    looked: int = 0
    labels: Counter[int] = field(default_factory=Counter)
    """Samples of each class, by its number."""
    unlabelled: int = 0
    flaws: dict[str, Noted] = field(default_factory=dict)
    """Samples that teach nothing, by the reason (`Kind.flaw`), and those that cannot be decoded."""
    ids: list[int] = field(default_factory=list)
    """Ids of the decoded samples."""
    hashes: list[int] = field(default_factory=list)
    """Hash of the content of each of `ids`."""

    def merge(self, other: Contents) -> None:
        """Add the counts of other samples."""
        self.looked += other.looked
        self.labels += other.labels
        self.unlabelled += other.unlabelled
        self.ids += other.ids
        self.hashes += other.hashes
        for words, noted in other.flaws.items():
            self.note(words, noted.names, noted.count)

    def note(self, words: str, names: Sequence[str], count: int = 1) -> None:
        """Count samples with a flaw."""
        self.flaws.setdefault(words, Noted()).add(names, count)


def class_lines(contents: Contents, names: Sequence[str], some: bool) -> Iterator[str]:
    """Yield a line for each class with its count, and lines about their imbalance.

    names: of the classes, by number. some: not all samples were looked into.
    """
    labels, total = contents.labels, sum(contents.labels.values())
    numbers = sorted({*labels, *range(len(names))})
    if not numbers:
        return
    yield f"  classes    {len(numbers):,}" + (f", among {contents.looked:,} samples:" if some else ":")
    titles = [f"{number}: {names[number]}" if 0 <= number < len(names) else f"{number}, without a name"
              for number in numbers]  # fmt: skip
    width = min(_TITLE, max(map(len, titles)))
    for number, title in zip(numbers, titles, strict=True):
        yield f"    {title:<{width}} {labels[number]:>10,} {labels[number] / max(total, 1):>7.1%}"
    yield from (f"  attention  {line}" for line in _imbalance(contents, numbers, titles, some))


def _imbalance(contents: Contents, numbers: Sequence[int], titles: Sequence[str], some: bool) -> Iterator[str]:
    """Yield words about classes that are empty, of one sample, or much smaller than others, and missing labels."""
    counts = {title: contents.labels[number] for number, title in zip(numbers, titles, strict=True)}
    present = {title: count for title, count in counts.items() if count}
    for wanted, words in ((0, "have no sample"), (1, "have one sample")):
        few = [title for title, count in counts.items() if count == wanted]
        if few and not some:
            yield f"{len(few):,} of {len(counts):,} classes {words}: {Noted(len(few), few[:_NAMED])}"
    if present and (most := max(present.values())) >= _UNEQUAL * (least := min(present.values())):
        large, small = (next(title for title, count in present.items() if count == wanted) for wanted in (most, least))
        yield f"unequal classes: {large} has {most:,} samples, {most / least:,.0f} times as many as {small}"
    if contents.unlabelled:
        yield f"{contents.unlabelled:,} of {contents.looked:,} samples have no class"


def flaw_lines(contents: Contents) -> Iterator[str]:
    """Yield a line for each kind of samples that teach nothing."""
    for words, noted in sorted(contents.flaws.items()):
        yield f"  attention  {noted.count:,} of {contents.looked:,} samples are {words}: {noted}"
    if contents.ids and not contents.flaws:
        yield f"  decoded    {contents.looked:,} samples: none is damaged, silent, empty or of one colour"


class _Job(NamedTuple):
    """Arguments of the look into one shard, for another process."""

    alone: Index
    """The index of this shard alone."""
    shard: int
    first: int
    """Id of the shard's first sample in the whole index."""
    rows: Sequence[int]
    deep: bool


def look(index: Index, shards: Sequence[int], chosen: np.ndarray | None, deep: bool, workers: int | None) -> Contents:
    """Look into the samples of some shards.

    chosen: ids of the samples to look into, sorted; None: all. deep: decode them. Otherwise only their classes are
    counted; of local shards only headers are read for it. Raises as `Reader.read`.
    """
    jobs = [job for shard in shards if (job := _job(index, shard, chosen, deep)).rows]
    found: dict[int, Contents] = {}
    size = sum(index.entries[job.shard].filesize for job in jobs)
    with shards_progress("decode" if deep else "classes", size, len(jobs)) as progress:
        for shard, contents in map_unordered(_look, jobs, workers if deep else 1):
            found[shard] = contents
            progress.add(index.entries[shard].filesize, contents.looked)
    whole = Contents()
    for shard in sorted(found):  # helpers finish in any order
        whole.merge(found[shard])
    return whole


def _job(index: Index, shard: int, chosen: np.ndarray | None, deep: bool) -> _Job:
    first, count = int(index.starts[shard]), index.entries[shard].nsamples
    rows: Sequence[int] = range(count)
    if chosen is not None:
        begin, end = np.searchsorted(chosen, (first, first + count))
        rows = (chosen[begin:end] - first).tolist()
    alone = replace(index, paths=(index.paths[shard],), entries=(index.entries[shard],), items=(1,))
    return _Job(alone, shard, first, rows, deep)


def _look(job: _Job) -> tuple[int, Contents]:
    """(shard, contents of its samples)."""
    contents = Contents()
    sparse = _SPARSE * len(job.rows) < job.alone.samples
    with closing(Reader(job.alone, 1 if sparse else None)) as reader, _labels(job.alone, reader) as label:
        for row in job.rows:
            contents.looked += 1
            try:
                if job.deep:
                    _decode(job, reader, row, contents)
                else:
                    _count(label(row), contents)
            except BadSample as error:
                contents.note(DAMAGED, [f"{reader.report(row, error).sample} ({name_of(job.alone.paths[0])})"])
    return job.shard, contents


def _decode(job: _Job, reader: Reader, row: int, contents: Contents) -> None:
    """Read and decode a sample, and note what there is to say. Raises BadSample if it cannot be read."""
    key, members = reader.read(row)
    _count(members.get(_LABEL), contents)
    found = next(((kind, data) for kind in KINDS if (data := kind.member(members)) is not None), None)
    if found is None:
        raise BadSample("member", nothing_known(members))
    kind, data = found
    contents.ids.append(job.first + row)
    contents.hashes.append(int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little"))
    try:
        flaw = kind.flaw(data)
    except Exception:  # codecs raise any exception on damaged bytes
        flaw = DAMAGED
    if flaw:
        contents.note(flaw, [f"{key} ({name_of(job.alone.paths[0])})"])


def _count(label: Data | None, contents: Contents) -> None:
    """Count a sample for its class."""
    try:
        contents.labels[int(label)] += 1  # type: ignore[arg-type]
    except (TypeError, ValueError):
        contents.unlabelled += 1


@contextmanager
def _labels(index: Index, reader: Reader) -> Iterator:
    """Yield the function that reads the class of the sample in a row, None if it has none. It raises BadSample."""

    def slowly(row: int) -> Data | None:
        return reader.read(row).members.get(_LABEL)

    if is_remote(index.paths[0]):
        yield slowly
        return
    rows, descriptor = index.rows(0), os.open(local_path(index.paths[0]), os.O_RDONLY | os.O_CLOEXEC)

    def label(row: int) -> Data | None:
        first, size = int(rows["offset"][row]), int(rows["size"][row])
        try:
            return read_member(lambda at, count: os.pread(descriptor, count, first + at), size, _LABEL)
        except (ValueError, OverflowError):  # of another form, or damaged
            return slowly(row)

    try:
        yield label
    finally:
        os.close(descriptor)
