"""Seconds and memory from a loaded index to the samples of an epoch's last step: a resume has to do this.

    python -m benchmarks.order

The index is synthetic: shards of 8,000 samples of 100 kB, one rank of 64, 2,048 samples a step. Images need the order
alone. Recordings also need the lengths of a window's samples, 1,024 of each of 512 lanes; their sidecars hold them
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
    """Shards that do not exist and all have the same rows."""

    def rows(self, shard: int) -> np.ndarray:
        """The rows of a shard, like `Index.rows`."""
        return read_rows(Path(self.paths[shard]))


def synthetic_index(samples: int, folder: Path) -> SyntheticIndex:
    """An index of `samples` samples, with one sidecar in `folder`."""
    path = folder / "train.tar"
    rows = np.zeros(SHARD, ROW)
    rows["length"] = 100 + np.arange(SHARD) * 7919 % 700
    np.save(sidecar(path), rows)
    count = samples // SHARD
    entries = [ShardEntry(f"{i:06d}.tar", SHARD, SHARD * SAMPLE_BYTES, "", "", 0, 0) for i in range(count)]
    return SyntheticIndex((str(path),) * count, tuple(entries), (), (), None, storage_of(DataConfig()))


def last_step(index: Index, modality: Modality) -> np.ndarray:
    """Samples of the last rank in the last step of the first epoch, int64 [n]."""
    part = PretrainConfig(modality=modality, batch=BatchConfig(global_=BATCH, micro=BATCH // WORLD)).for_modality(
        modality
    )
    split = split_step(part, WORLD - 1, WORLD)
    cursor = make_cursor(part, index, split)
    requests = steps_of(part, index, cursor, split).requests(cursor.steps_per_epoch - 1)
    return np.concatenate([request.samples for request in requests])


def seconds_of(index: Index, modality: Modality) -> float:
    """Duration of `last_step`."""
    started = time.perf_counter()
    last_step(index, modality)
    return time.perf_counter() - started


def megabytes_of(index: Index, modality: Modality) -> float:
    """Peak memory of `last_step` in MB of 10^6 bytes, mapped files not counted."""
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
