"""Padding of a step and waiting of its fastest rank: batches by length, and batches in any order.

    python -m benchmarks.padding

Lengths are simulated and no samples are read: utterances like LibriSpeech's (mean 12 s, most near 15 s), and texts of
log-normal length up to 512 tokens. `padding` is the share of computed positions that are padding. `lost` also counts
the positions that the other ranks could have computed while the slowest one computed its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data_shards.order.cursor import Cursor
from data_shards.order.length_bins import Bins, Step, micro_batch_slices
from data_shards.order.plain import EpochOrder, OrderConfig, PlainOrder

SAMPLES = 281_241  # LibriSpeech's 960 hours
WORLD = 8
LANES = 32
CHUNK = 64  # samples
STEPS = 400


class Case(NamedTuple):
    """Lengths, and the batch of their recipe."""

    lengths: np.ndarray
    longest: int
    batch: int
    micro: int
    micro_tokens: int


def librispeech_like(rng: np.random.Generator) -> Case:
    """Frames of utterances; the batch of recipe speech_base_librispeech."""
    short, long = rng.uniform(1.5, 13, SAMPLES), rng.normal(14.7, 1.1, SAMPLES)
    seconds = np.where(rng.random(SAMPLES) < 0.36, short, long)
    return Case((50 * seconds).astype(np.uint32), 999, 320, 128, 11_875)


def documents(rng: np.random.Generator) -> Case:
    """Subwords of documents; the batch of recipe text_base_books_wikipedia."""
    return Case(np.clip(rng.lognormal(5, 1, SAMPLES), 3, 4096).astype(np.uint32), 512, 256, 128, 8_192)


def as_they_come(case: Case, order: OrderConfig) -> Iterator[Step]:
    """Steps of the order without bins, each sorted by length, as `micro_batch_slices` needs it."""
    epoch, per_lane = EpochOrder(np.array([SAMPLES]), order, 0), case.batch // LANES
    for step in range(STEPS):
        samples = epoch.ids(np.arange(LANES), step * per_lane, (step + 1) * per_lane).ravel()
        lengths = np.sort(np.minimum(case.lengths[samples], case.longest).astype(np.int64))[::-1]
        yield Step(samples, samples, samples, samples, lengths)  # no one asks for lanes, positions and epochs here


def random_micro_batches(case: Case, steps: Iterator[Step]) -> Iterator[np.ndarray]:
    """Positions computed by each rank if its samples come in any order, an equal number in each micro-batch."""
    size = max(1, min(case.micro, case.micro_tokens // case.longest))
    for step in steps:
        ranks = np.random.default_rng(0).permutation(step.lengths).reshape(WORLD, -1)
        yield sum(ranks[:, i : i + size].max(1) * len(ranks[0, i : i + size]) for i in range(0, ranks.shape[1], size))


def cut_micro_batches(case: Case, steps: Iterator[Step]) -> Iterator[np.ndarray]:
    """Positions computed by each rank if micro-batches are cut by length."""
    for step in steps:
        parts = micro_batch_slices(step.lengths, WORLD, case.micro, case.micro_tokens)
        ranks = step.lengths.reshape(-1, WORLD)  # [units, ranks]
        yield sum(ranks[part.start] * (part.stop - part.start) for part in parts)


def row(name: str, steps: list[Step], computed: Iterator[np.ndarray]) -> None:
    """Print one line of the table."""
    real = np.array([step.lengths.sum() for step in steps])
    ranks = np.array(list(computed))
    padding = 1 - real.sum() / ranks.sum()
    lost = 1 - real.sum() / (WORLD * ranks.max(1).sum())
    print(f"  {name:44} padding {padding:6.1%}  lost {lost:6.1%}  tokens of a step +- {real.std() / real.mean():5.1%}")


def measure(name: str, case: Case) -> None:
    """Print all rows of one case."""
    print(f"{name}: {case.batch} samples a step, {WORLD} ranks")
    plain = list(as_they_come(case, OrderConfig(0, LANES, CHUNK, 1024)))
    row("any order, equal micro-batches", plain, random_micro_batches(case, iter(plain)))
    row("any order, sorted within the step", plain, cut_micro_batches(case, iter(plain)))
    per_lane = case.batch // LANES
    for equal in ("samples", "tokens"):
        for window in (128, 1024):
            order = OrderConfig(0, LANES, CHUNK, -(-window // per_lane) * per_lane)
            cursor = Cursor(order, per_lane, SAMPLES // LANES, "", equal, case.longest)
            bins = Bins(PlainOrder(np.array([SAMPLES]), order), case.lengths.astype(np.int64).__getitem__, cursor)
            start = time.perf_counter()
            steps = [bins.step(step) for step in range(STEPS)]
            seconds = time.perf_counter() - start
            row(f"bins of equal {equal}, data.window={window}", steps, cut_micro_batches(case, iter(steps)))
    print(f"  the sampler takes {1e3 * seconds / STEPS:.2f} ms a step")


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    measure("speech", librispeech_like(rng))
    measure("text", documents(rng))
