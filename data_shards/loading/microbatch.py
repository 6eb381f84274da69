"""One masked micro-batch from a request: read, crop, mask, stack; bad samples replaced by others of their windows."""

from __future__ import annotations

import time
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch.utils.data import Dataset, get_worker_info

from configs.modality_config import ModalityConfig
from data_shards.batch import MaskedBatch
from data_shards.loading.cost import Cost
from data_shards.loading.slots import Slots
from data_shards.order.blend import order_of
from data_shards.order.plain import OrderConfig
from data_shards.randomness import Epochs, Stream, uniforms
from data_shards.request import Neighbours, Request
from data_shards.shards.bad_sample import BadSample, Report
from data_shards.shards.index import Index
from data_shards.shards.reader import Reader
from data_shards.shards.storage import Unreachable
from data_shards.shards.tar import Members
from data_shards.speech.samples import Clips
from data_shards.text.samples import Texts
from data_shards.vision.samples import Images

_TRIES = 100  # bad samples in a row before the run is given up


class Loaded(NamedTuple):
    """A micro-batch, the bad samples met, and what it took."""

    batch: MaskedBatch
    last: bool
    """Whether it is the last one of its step."""
    replaced: np.ndarray
    """Which of its samples are replacements, bool [B]."""
    reports: list[Report]
    cost: Cost


class NoUsableSample(Exception):
    """So many bad samples in a row that replacing them is no answer."""


class SampleKind(Protocol):
    """What differs between modalities on the way from a sample's bytes to a batch."""

    draws: int
    """Uniform numbers that loading a sample takes."""

    def load(self, members: Members, draws: np.ndarray, limit: int) -> Any:
        """A sample, cropped at random; BadSample where it cannot be used."""

    def load_whole(self, members: Members) -> Any:
        """A sample for evaluation, nothing in it random; BadSample where it cannot be used."""

    def masked(
        self, epochs: Epochs, samples: np.ndarray, loaded: list[Any], neighbours: Neighbours | None
    ) -> MaskedBatch:
        """The masked batch of loaded samples; `epochs` and `neighbours` as `Request` has them."""

    def unmasked(self, samples: np.ndarray, loaded: list[Any]) -> MaskedBatch:
        """The batch of samples that were loaded for evaluation."""


def sample_kind(config: ModalityConfig) -> SampleKind:
    """How the samples of the modality are made."""
    match config.modality:
        case "vision":
            return Images(config)
        case "speech":
            return Clips(config)
        case "text":
            return Texts(config)
    raise AssertionError(f"a mixture has no samples of its own: {config.modality}")


class MicroBatches(Dataset):
    """Request -> Loaded, as torch's DataLoader calls it in a worker; a pure function of the request."""

    def __init__(self, index: Index, config: ModalityConfig, order: OrderConfig, slots: Slots | None = None) -> None:
        """slots: where workers leave the inputs of their batches."""
        self.slots = slots
        self.seed, self.order = order.seed, order_of(index.counts, order)
        self.kind = sample_kind(config)
        self.reader = Reader(index, order.chunk, config.data.max_sample_mb)
        self._read_s = self._decode_s = 0.0

    def __getitem__(self, request: Request) -> Loaded | str:
        """The micro-batch, or what to tell the user: an exception would arrive as a worker's traceback."""
        try:
            loaded = self._load(request)
            worker = get_worker_info()
            if self.slots and worker:
                return loaded._replace(batch=self.slots.put(loaded.batch, worker.id))
            return loaded
        except NoUsableSample as error:
            return str(error)
        except Unreachable as error:
            return f"the store of data.shards does not answer: {error}; the same command goes on once it does"

    def _load(self, request: Request) -> Loaded:
        reports: list[Report] = []
        self._read_s, self._decode_s, counted = 0.0, 0.0, self._counted()
        samples = request.samples.copy()
        draws = self._draws(request.epochs, samples)
        loaded = []
        for i, sample in enumerate(samples.tolist()):
            try:
                loaded.append(self._sample(sample, draws[i], int(request.limits[i])))
            except BadSample as error:
                reports.append(self.reader.report(sample, error))
                samples[i], replacement = self._replacement(request, i, reports)
                loaded.append(replacement)
        started = time.perf_counter()
        batch = self.kind.masked(request.epochs, samples, loaded, request.neighbours)
        seconds = self._read_s, self._decode_s, time.perf_counter() - started
        counts = (after - before for after, before in zip(self._counted(), counted, strict=True))
        return Loaded(batch, request.last, samples != request.samples, reports, Cost(len(samples), *seconds, *counts))

    def _counted(self) -> tuple[int, int, int]:
        return self.reader.bytes_read, self.reader.cache_hits, self.reader.cache_misses

    def _draws(self, epochs: Epochs, samples: np.ndarray) -> np.ndarray:
        return uniforms(self.seed, epochs, samples, Stream.CROP, self.kind.draws)

    def _sample(self, sample: int, draws: np.ndarray, limit: int) -> Any:
        started = time.perf_counter()
        members = self.reader.read(sample).members
        read = time.perf_counter()
        loaded = self.kind.load(members, draws, limit)
        self._read_s += read - started
        self._decode_s += time.perf_counter() - read
        return loaded

    def _replacement(self, request: Request, i: int, reports: list[Report]) -> tuple[int, Any]:
        """The next good sample of the window, which does not depend on ranks or workers, cropped to its place."""
        epoch, lane, position = (int(of[i]) for of in (request.epochs, request.lanes, request.positions))
        tries = 1
        for sample in islice(self.order.replacements(epoch, lane, position), _TRIES - 1):
            draws = self._draws(request.epochs[i : i + 1], np.array([sample]))[0]
            tries += 1
            try:
                return sample, self._sample(sample, draws, int(request.limits[i]))
            except BadSample as error:
                reports.append(self.reader.report(sample, error))
        shard, name, _, reason = reports[-1]
        raise NoUsableSample(
            f"data.shards: no usable sample among {tries} in a row, the last: {shard}, {name}: {reason}; "
            f"see ./run.sh shards validate shards={shard}"
        )
