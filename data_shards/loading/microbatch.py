"""One micro-batch from a request: read, crop, mask or label, and stack samples.

A bad sample is replaced by another sample of its window.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset, get_worker_info

from configs.modality_config import ModalityConfig
from data_shards.batch import SampleBatch
from data_shards.kinds import kind_of
from data_shards.loading.bad_sample_count import Outcome
from data_shards.loading.cost import Cost
from data_shards.loading.labels import LabelMember, read_label, read_transcript
from data_shards.loading.slots import Slots, in_shared_memory
from data_shards.order.blend import order_of
from data_shards.order.plain import OrderConfig
from data_shards.randomness import Epochs, Stream, uniforms
from data_shards.request import Request
from data_shards.shards.bad_sample import BadSample, Report
from data_shards.shards.index import Index
from data_shards.shards.reader import Reader
from data_shards.shards.storage import Unreachable
from data_shards.shards.tar import Members

_TRIES = 100  # bad samples in a row before the run is given up


class Loaded(NamedTuple):
    """A micro-batch, the bad samples among its own, and the cost of loading it."""

    batch: SampleBatch
    last: bool
    """True for the last micro-batch of its step."""
    outcome: Outcome
    cost: Cost


class Failure(NamedTuple):
    """The reason why there is no micro-batch, for the user. An exception would arrive as a worker's traceback."""

    text: str
    outage: bool
    """True if the bytes cannot be read now; False for a mistake or too much damage."""


class GivenUp(Exception):
    """Too many bad samples in a row to replace them, or a mistake that no replacement mends."""


class MicroBatches(Dataset):
    """The map from a Request to a Loaded, a pure function. torch's DataLoader calls it in its workers."""

    def __init__(
        self,
        index: Index,
        config: ModalityConfig,
        order: OrderConfig,
        slots: Slots | None = None,
        labels: LabelMember | None = None,
    ) -> None:
        """slots: shared memory for the inputs of batches. labels: give labelled batches in place of masked ones."""
        self.slots, self.labels = slots, labels
        self.seed, self.order = order.seed, order_of(index.counts, order)
        self.kind = kind_of(config.modality).samples(config)
        self.reader = Reader(index, order.chunk, config.data.max_sample_mb)
        self._read_s = self._decode_s = 0.0

    def __getitem__(self, request: Request) -> Loaded | Failure:
        """Return the micro-batch, or the reason why there is none."""
        try:
            loaded = self._load(request)
            worker = get_worker_info()
            if worker is None:
                return loaded
            batch = self.slots.put(loaded.batch, worker.id) if self.slots else loaded.batch
            return loaded._replace(batch=in_shared_memory(batch))
        except GivenUp as error:
            return Failure(str(error), outage=False)
        except Unreachable as error:
            return Failure(str(error), outage=True)

    def _load(self, request: Request) -> Loaded:
        reports: list[Report] = []
        self._read_s, self._decode_s, counted = 0.0, 0.0, self._reader_counts()
        samples = request.samples.copy()
        draws = self._draws(request.epochs, samples)
        loaded: list[tuple[Any, int | str | None]] = []
        for i, sample in enumerate(samples.tolist()):
            try:
                loaded.append(self._sample(sample, draws[i], int(request.limits[i])))
            except BadSample as error:
                reports.append(self.reader.report(sample, error))
                samples[i], replacement = self._replacement(request, i, reports)
                loaded.append(replacement)
        started = time.perf_counter()
        batch = self._batch(request, samples, loaded)
        seconds = self._read_s, self._decode_s, time.perf_counter() - started
        counts = (after - before for after, before in zip(self._reader_counts(), counted, strict=True))
        outcome = Outcome(request.lanes, request.positions, samples != request.samples, reports)
        return Loaded(batch, request.last, outcome, Cost(len(samples), *seconds, *counts))

    def _batch(self, request: Request, samples: np.ndarray, loaded: list[tuple[Any, Any]]) -> SampleBatch:
        contents, labels = ([entry[i] for entry in loaded] for i in (0, 1))
        if self.labels is None:
            return self.kind.masked(request.epochs, samples, contents, request.neighbours)
        unmasked = self.kind.unmasked(samples, contents, request.epochs)
        return unmasked.with_labels(labels) if self.labels == "cls" else unmasked.with_labels(transcripts=labels)

    def _label(self, members: Members) -> int | str | None:
        match self.labels:
            case "cls":
                return read_label(members)
            case "txt":
                return read_transcript(members)
        return None

    def _reader_counts(self) -> tuple[int, int, int]:
        return self.reader.bytes_read, self.reader.cache_hits, self.reader.cache_misses

    def _draws(self, epochs: Epochs, samples: np.ndarray) -> np.ndarray:
        return uniforms(self.seed, epochs, samples, Stream.CROP, self.kind.draws)

    def _sample(self, sample: int, draws: np.ndarray, limit: int) -> tuple[Any, int | str | None]:
        """Read, decode and crop a sample, and read its label. Raises BadSample, Unreachable, GivenUp."""
        started = time.perf_counter()
        try:
            members = self.reader.read(sample).members
        except ValueError as error:
            raise GivenUp(str(error)) from error
        read = time.perf_counter()
        label = self._label(members)
        loaded = self.kind.load(members, draws, limit)
        self._read_s += read - started
        self._decode_s += time.perf_counter() - read
        return loaded, label

    def _replacement(self, request: Request, i: int, reports: list[Report]) -> tuple[int, tuple[Any, int | str | None]]:
        """Return the next good sample of the window, cropped to the place of the bad one.

        It does not depend on ranks or workers.
        """
        epoch, lane, position = (int(of[i]) for of in (request.epochs, request.lanes, request.positions))
        tries = 1
        for sample in islice(self.order.replacements(epoch, lane, position), _TRIES - 1):
            draws = self._draws(request.epochs[i : i + 1], np.array([sample]))[0]
            tries += 1
            try:
                return sample, self._sample(sample, draws, int(request.limits[i]))
            except BadSample as error:
                reports.append(self.reader.report(sample, error))
        raise GivenUp(
            f"data.shards: no usable sample among {tries} in a row, the last: {reports[-1]}; "
            f"see ./run.sh shards validate shards={reports[-1].shard}"
        )
