"""One masked micro-batch from a request: read, crop, mask, stack; bad samples replaced by their lane's next ones."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from torch.utils.data import Dataset

from configs.schema import PretrainConfig
from data_shards.batch import MaskedBatch
from data_shards.image import Images
from data_shards.index import Index
from data_shards.masking import Neighbours
from data_shards.order import EpochOrder, OrderConfig
from data_shards.randomness import Epochs, Stream, uniforms
from data_shards.reader import BadSample, Reader, Report
from data_shards.speech import Clips
from data_shards.text import Texts

_TRIES = 100  # bad samples in a row before a lane is given up


class Request(NamedTuple):
    """Everything that decides a micro-batch; each array is int64 [B]."""

    epochs: np.ndarray
    lanes: np.ndarray
    positions: np.ndarray
    samples: np.ndarray
    last: bool
    """Whether it is the last one of its step."""
    limits: np.ndarray
    """Tokens to which each sample, or what replaces it, is cropped; 0 for images."""
    neighbours: Neighbours | None = None
    """Speech: the clips with whose masks these are trimmed; None: they are not."""


class Loaded(NamedTuple):
    """A micro-batch, how many of its samples are replacements, and the bad samples met."""

    batch: MaskedBatch
    last: bool
    """Whether it is the last one of its step."""
    replaced: int
    reports: list[Report]


class NoUsableSample(Exception):
    """So many bad samples in a row that replacing them is no answer."""


class SampleKind(Protocol):
    """What differs between modalities on the way from a sample's bytes to a batch."""

    draws: int
    """Uniform numbers that loading a sample takes."""

    def load(self, members: dict[str, bytes], draws: np.ndarray, limit: int) -> Any:
        """A sample, cropped at random; BadSample where it cannot be used."""

    def load_whole(self, members: dict[str, bytes]) -> Any:
        """A sample for evaluation, nothing in it random; BadSample where it cannot be used."""

    def masked(
        self, epochs: Epochs, samples: np.ndarray, loaded: list[Any], neighbours: Neighbours | None
    ) -> MaskedBatch:
        """The masked batch of loaded samples; `epochs` and `neighbours` as `Request` has them."""

    def unmasked(self, samples: np.ndarray, loaded: list[Any]) -> MaskedBatch:
        """The batch of samples that were loaded for evaluation."""


def sample_kind(part: PretrainConfig) -> SampleKind:
    """How the samples of the modality are made."""
    match part.modality:
        case "vision":
            return Images(part)
        case "speech":
            return Clips(part)
        case "text":
            return Texts(part)
    raise AssertionError(f"a mixture has no samples of its own: {part.modality}")


class MicroBatches(Dataset):
    """Request -> Loaded, as torch's DataLoader calls it in a worker; a pure function of the request."""

    def __init__(self, index: Index, part: PretrainConfig, order: OrderConfig) -> None:
        self.index, self.order = index, order
        self.kind = sample_kind(part)
        self.reader = Reader(index, order.chunk, part.data.max_sample_mb)
        self._epoch_order: EpochOrder | None = None

    def __getitem__(self, request: Request) -> Loaded | str:
        """The micro-batch, or what to tell the user: an exception would arrive as a worker's traceback."""
        try:
            return self._load(request)
        except NoUsableSample as error:
            return str(error)

    def _load(self, request: Request) -> Loaded:
        reports: list[Report] = []
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
        batch = self.kind.masked(request.epochs, samples, loaded, request.neighbours)
        return Loaded(batch, request.last, int((samples != request.samples).sum()), reports)

    def _draws(self, epochs: Epochs, samples: np.ndarray) -> np.ndarray:
        return uniforms(self.order.seed, epochs, samples, Stream.CROP, self.kind.draws)

    def _sample(self, sample: int, draws: np.ndarray, limit: int) -> Any:
        return self.kind.load(self.reader.read(sample).members, draws, limit)

    def _replacement(self, request: Request, i: int, reports: list[Report]) -> tuple[int, Any]:
        """The next good sample of the lane, which does not depend on ranks or workers, cropped to its place."""
        epoch = int(request.epochs[i])
        if self._epoch_order is None or self._epoch_order.epoch != epoch:
            self._epoch_order = EpochOrder(self.index.counts, self.order, epoch)
        order = self._epoch_order
        tries = min(_TRIES, order.lane_length)
        for step in range(1, tries):
            position = (int(request.positions[i]) + step) % order.lane_length
            samples = order.ids(request.lanes[i : i + 1], position, position + 1)[0]
            sample, draws = int(samples[0]), self._draws(request.epochs[i : i + 1], samples)[0]
            try:
                return sample, self._sample(sample, draws, int(request.limits[i]))
            except BadSample as error:
                reports.append(self.reader.report(sample, error))
        shard, name, _, reason = reports[-1]
        raise NoUsableSample(
            f"data.shards: no usable sample among {tries} in a row, the last: {shard}, {name}: {reason}; "
            f"see ./run.sh shards validate shards={shard}"
        )
