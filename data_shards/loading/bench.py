"""Speed of reading shards and making batches, stage by stage: the most that a run's loader processes can deliver."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np
import torch

from configs.modality_config import ModalityConfig
from configs.output.stages import stage
from configs.schema import PretrainConfig
from configs.schema_commands import BenchConfig
from configs.schema_modalities import Modality
from configs.schema_training import BatchConfig, DataConfig
from data_shards.kinds import kind_of, modality_of
from data_shards.loading.modality_loader import ModalityLoader
from data_shards.shards.bad_sample import BadSample
from data_shards.shards.index import Index, load_index
from data_shards.shards.reader import Reader
from data_shards.shards.tar import Members

_HELD = 256  # most samples held in memory for the stages without reading
_HELD_BYTES = 256 * 2**20


class Stage(NamedTuple):
    """One measured stage: its work and its seconds."""

    name: str
    samples: int
    size: int
    """Bytes of the stored samples."""
    seconds: float

    @property
    def line(self) -> str:
        """The stage's row of the table."""
        speed, mb = self.samples / self.seconds, self.size / self.seconds / 1e6
        return f"{self.name:40}{speed:14,.0f}{mb:12,.1f}{1e6 * self.seconds / self.samples:14,.1f}"


HEADER = f"{'':40}{'samples/s':>14}{'MB/s':>12}{'us per sample':>14}"


def bench(config: BenchConfig) -> Iterator[str]:
    """Yield the lines of a table, each right after its measurement.

    Raises ValueError if there are no shards, or no sample that can be used.
    """
    torch.set_num_threads(1)
    with stage("reading the index and the first samples"):
        index = load_index(DataConfig(shards=config.shards))
        members = _readable_samples(index)
    modality = config.modality or modality_of(members[0])
    if modality is None:
        names = ", .".join(sorted(members[0]))
        raise ValueError(f"neither images nor recordings nor token ids: .{names}; set modality")
    run = _run_config(config, index, modality)
    yield f"{index.samples} samples, {modality}; one thread, but for the loader's {config.workers} processes"
    yield HEADER
    for name, make in _stages(run, index, members).items():
        with stage(name):
            measured = _measure(name, make(), config.seconds)
        yield measured.line
    for name, workers in (
        ("read to masked batch, this process", 0),
        (f"loader, workers={config.workers}", config.workers),
    ):
        with stage(name):
            loader = ModalityLoader(replace(run, data=replace(run.data, workers=workers)), 0, 1)
            measured = _measure(name, _load_steps(loader, 1 + workers * run.data.prefetch), config.seconds)
            loader.close()
        yield measured.line


def _readable_samples(index: Index) -> list[Members]:
    """Return samples that can be read, evenly spread over the shards. Raises ValueError if none can be read."""
    reader, held, size, count = Reader(index, chunk=1), list[Members](), 0, min(index.samples, _HELD)
    for sample in (number * index.samples // count for number in range(count)):
        try:
            held.append(reader.read(sample).members)
        except BadSample as error:
            last = reader.report(sample, error)
            continue
        size += _size(held[-1])
        if size > _HELD_BYTES:
            break
    reader.close()
    if not held:
        raise ValueError(f"none of {count} samples can be read, the last: {last}")
    return held


def _run_config(config: BenchConfig, index: Index, modality: Modality) -> ModalityConfig:
    """Return the defaults of a run of this modality on these shards."""
    size = min(config.batch, index.samples)
    data, batch = DataConfig(shards=config.shards), BatchConfig(global_=size, micro=size)
    run = PretrainConfig(modality=modality, data=data, batch=batch)
    own = run.for_modality(modality)
    if not index.tokenizer:
        return own
    return replace(own, text=replace(own.text, vocab_size=index.tokenizer.vocab_size))


def _stages(
    config: ModalityConfig, index: Index, held: list[Members]
) -> dict[str, Callable[[], Iterator[tuple[int, int]]]]:
    """Stages without batches by name, each a function that begins its endless work: samples and bytes of each piece."""
    kind = kind_of(config.modality)
    samples = kind.samples(config)
    limit = config.longest or 0
    draws = cycle(np.random.default_rng(0).random((len(held), samples.draws)))
    return {
        "read, checksum, parse": lambda: _read_samples(index),
        "decode": lambda: _apply(lambda members: kind.decode(kind.content(members), None), held),
        "decode, augment": lambda: _apply(lambda members: samples.load(members, next(draws), limit), held),
    }


def _read_samples(index: Index) -> Iterator[tuple[int, int]]:
    """Read the samples in the order of the shards, over and over."""
    reader = Reader(index)
    for sample in cycle(range(index.samples)):
        before = reader.bytes_read
        try:
            reader.read(sample)
        except BadSample:
            continue
        yield 1, reader.bytes_read - before


def _apply(function: Callable[[Members], object], held: list[Members]) -> Iterator[tuple[int, int]]:
    """Apply a function to each sample in memory, over and over. Raises ValueError if it fails on every sample."""
    usable = [members for members in held if _succeeds(function, members)]
    if not usable:
        raise ValueError(f"none of {len(held)} samples can be used; see ./run.sh shards validate deep=true")
    for members in cycle(usable):
        function(members)
        yield 1, _size(members)


def _succeeds(function: Callable[[Members], object], members: Members) -> bool:
    try:
        function(members)
    except (BadSample, ValueError, KeyError):
        return False
    return True


def _load_steps(loader: ModalityLoader, prepared: int) -> Iterator[tuple[int, int]]:
    """Take the steps of a loader after its first `prepared` steps, which its processes have made before the clock."""
    for _ in islice(steps := loader.steps(0), prepared):
        pass
    for _ in steps:
        yield loader.cost.samples, loader.cost.read_bytes


def _size(members: Members) -> int:
    return sum(map(len, members.values()))


def _measure(name: str, work: Iterator[tuple[int, int]], seconds: float) -> Stage:
    """Measure a stage's work for a number of seconds, after a first piece that does not count."""
    next(work)
    samples = size = 0
    started = time.perf_counter()
    for done, read in work:
        samples, size = samples + done, size + read
        if time.perf_counter() - started >= seconds:
            break
    return Stage(name, samples, size, time.perf_counter() - started)
