"""A check that a probe's test samples are held out: none may be among its reference samples or the training samples.

Samples are the same if their keys and their bytes are. Sidecars tell nearly all samples apart, by size and checksum of
the bytes in the tar, key included; only samples that agree in both are read. A copy under another key is not found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from configs.schema_running import ProbeConfig
from configs.schema_training import DataConfig
from data_shards.shards.bad_sample import BadSample
from data_shards.shards.index import Index, load_index
from data_shards.shards.reader import Reader
from data_shards.shards.storage import is_remote

_FEW_REMOTE = 256  # sidecars that are fetched before a run; the loader finds them in the cache


def spread(index: Index, limit: int) -> list[int]:
    """Ids of at most `limit` samples, evenly spread over the shards."""
    count = min(limit, index.samples)
    return [i * index.samples // count for i in range(count)]


def _marks(rows: np.ndarray) -> np.ndarray:
    """Size and checksum of each row as one number, uint64 [number of rows]."""
    return rows["size"].astype(np.uint64) << np.uint64(32) | rows["crc"]


@dataclass(frozen=True)
class _Samples:
    """The test samples that a probe takes: their marks, sorted, uint64 [N], and their ids in the same order."""

    index: Index
    marks: np.ndarray
    ids: np.ndarray

    @staticmethod
    def of(index: Index, limit: int) -> _Samples:
        """Read their rows, shard by shard."""
        ids = np.array(spread(index, limit))
        places = np.searchsorted(index.starts, ids, "right") - 1
        shards = [(shard, ids[places == shard] - index.starts[shard]) for shard in np.unique(places).tolist()]
        marks = np.concatenate([_marks(index.rows(shard)[rows]) for shard, rows in shards])
        order = marks.argsort(kind="stable")
        return _Samples(index, marks[order], ids[order])

    def candidates(self, rows: np.ndarray) -> list[tuple[int, int]]:
        """(row, id of a test sample) of all pairs that agree in size and checksum."""
        marks = _marks(rows)
        first, last = np.searchsorted(self.marks, marks, "left"), np.searchsorted(self.marks, marks, "right")
        return [
            (row, int(i)) for row in np.flatnonzero(first < last).tolist() for i in self.ids[first[row] : last[row]]
        ]


def _first_common(test: _Samples, index: Index) -> tuple[str, int] | None:
    """(name of the first sample of `index` that is a test sample, id of the latter); None if there is none.

    Of more than _FEW_REMOTE remote shards only those are looked into that equal a shard of the test samples.
    """
    known = {entry.sha256 for entry in test.index.entries}
    many = sum(map(is_remote, index.paths)) > _FEW_REMOTE
    here, there = Reader(test.index, 1), Reader(index, 1)
    try:
        for shard, path in enumerate(index.paths):
            if many and is_remote(path) and index.entries[shard].sha256 not in known:
                continue
            for row, sample in test.candidates(index.rows(shard)):
                other = int(index.starts[shard]) + row
                if _same(here, sample, there, other):
                    return there.name(other), sample
    finally:
        here.close()
        there.close()
    return None


def _same(here: Reader, sample: int, there: Reader, other: int) -> bool:
    """True if two samples have the same key and bytes; False if one cannot be read."""
    try:
        return here.read(sample) == there.read(other)
    except BadSample:
        return False


def check_held_out(data: DataConfig, probe: ProbeConfig) -> None:
    """Raise ValueError if a test sample is among the samples of `probe.train_shards` or `data.shards`.

    The test samples are those that the probe takes. Also raises as `load_index` does.
    """
    test = _Samples.of(load_index(replace(data, shards=probe.test_shards, weights=None)), probe.test_samples)
    for key, shards in (("probe.train_shards", probe.train_shards), ("data.shards", data.shards)):
        if shards and (found := _first_common(test, load_index(replace(data, shards=shards, weights=None)))):
            name, sample = found
            shard = test.index.paths[test.index.locate(sample)[0]]
            raise ValueError(
                f"probe.test_shards are not held out: a sample of {shard} is in {key} too ({name}), so the accuracy "
                f"would be too high; give {key} and probe.test_shards without common samples"
            )
