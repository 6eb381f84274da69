"""From an index in hand to the samples of an epoch's last step: seconds and memory, as a run resumes.

    python -m benchmarks.order

The index is synthetic: shards of 8,000 samples of 100 kB, one rank of 64, 2,048 samples a step. Images need the order
alone; recordings also the lengths of a window's samples, 1,024 of each of 512 lanes, from the sidecars that they are in
(here one file, mapped anew for each shard).
"""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs.schema import PretrainConfig
from configs.schema_modalities import Modality
from configs.schema_training import BatchConfig, DataConfig
from data_shards.loading.steps import steps_of
from data_shards.order.cursor import make_cursor, split_step
from data_shards.shards.index import Index
from data_shards.shards.index_file import ShardEntry
from data_shards.shards.sidecar import ROW, read_rows, sidecar
from data_shards.shards.storage import storage_of

SHARD, SAMPLE_BYTES = 8_000, 100_000
BATCH, WORLD = 2048, 64


@dataclass(frozen=True)
class SyntheticIndex(Index):
    """Shards that are not there, of which each has the same rows."""

    def rows(self, shard: int) -> np.ndarray:
        """As `Index.rows`."""
        return read_rows(Path(self.paths[shard]))


def synthetic_index(samples: int, folder: Path) -> SyntheticIndex:
    """An index of so many samples, with one sidecar in `folder`."""
    path = folder / "train.tar"
    rows = np.zeros(SHARD, ROW)
    rows["length"] = 100 + np.arange(SHARD) * 7919 % 700
    np.save(sidecar(path), rows)
    count = samples // SHARD
    entries = [ShardEntry(f"{i:06d}.tar", SHARD, SHARD * SAMPLE_BYTES, "", "", 0, 0) for i in range(count)]
    return SyntheticIndex((str(path),) * count, tuple(entries), (), (), None, storage_of(DataConfig()))


def last_step(index: Index, modality: Modality) -> np.ndarray:
    """The samples of the last rank in the last step of the first epoch, int64 [n]."""
    part = PretrainConfig(modality=modality, batch=BatchConfig(global_=BATCH, micro=BATCH // WORLD)).for_modality(
        modality
    )
    split = split_step(part, WORLD - 1, WORLD)
    cursor = make_cursor(part, index, split)
    requests = steps_of(part, index, cursor, split).requests(cursor.steps_per_epoch - 1)
    return np.concatenate([request.samples for request in requests])


def seconds_of(index: Index, modality: Modality) -> float:
    """How long `last_step` takes."""
    started = time.perf_counter()
    last_step(index, modality)
    return time.perf_counter() - started


def megabytes_of(index: Index, modality: Modality) -> float:
    """The most memory that `last_step` holds at a time, in MB of 10^6 bytes; what is mapped does not count."""
    tracemalloc.start()
    try:
        last_step(index, modality)
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def main() -> None:
    """Print both for 1, 10 and 100 million samples."""
    modalities: tuple[Modality, ...] = ("vision", "speech")
    for samples in (1_000_000, 10_000_000, 100_000_000):
        for modality in modalities:
            with tempfile.TemporaryDirectory() as folder:
                index = synthetic_index(samples, Path(folder))
                seconds, megabytes = seconds_of(index, modality), megabytes_of(index, modality)
            print(f"{samples:11,d} samples  {modality}  {seconds:6.3f} s  {megabytes:6.1f} MB", flush=True)


if __name__ == "__main__":
    main()
