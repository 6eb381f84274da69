"""One masked micro-batch from a request: read, augment, mask, stack; bad samples replaced by their lane's next ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from configs.schema import VisionConfig
from data_shards.batch import MaskedBatch
from data_shards.image import CROP_DRAWS, JITTER_DRAWS, augment, color_jitter, image_bytes
from data_shards.index import Index
from data_shards.masking import block_masks
from data_shards.order import EpochOrder, OrderConfig
from data_shards.randomness import Stream, uniforms
from data_shards.reader import BadSample, Reader, Report

_TRIES = 100  # bad samples in a row before a lane is given up


class Request(NamedTuple):
    """Everything that decides a micro-batch; each array is int64 [B]."""

    epoch: int
    lanes: np.ndarray
    positions: np.ndarray
    samples: np.ndarray


class Loaded(NamedTuple):
    """A micro-batch, how many of its samples are replacements, and the bad samples met."""

    batch: MaskedBatch
    replaced: int
    reports: list[Report]


class NoUsableSample(Exception):
    """So many bad samples in a row that replacing them is no answer."""


class MicroBatches(Dataset):
    """Request -> Loaded, as torch's DataLoader calls it in a worker; a pure function of the request."""

    def __init__(self, index: Index, vision: VisionConfig, order: OrderConfig) -> None:
        self.index, self.vision, self.order = index, vision, order
        self.reader = Reader(index)
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
        draws = self._draws(request.epoch, samples, Stream.CROP, CROP_DRAWS + 1)
        images, means = [], []
        for i, sample in enumerate(samples.tolist()):
            try:
                image, mean = self._augmented(sample, draws[i])
            except BadSample as error:
                reports.append(self.reader.report(sample, str(error)))
                samples[i], image, mean = self._replacement(request, i, reports)
            images.append(image)
            means.append(mean)
        jitter_draws = self._draws(request.epoch, samples, Stream.JITTER, JITTER_DRAWS)
        batch = MaskedBatch(
            modality="vision",
            inputs=torch.stack(images),
            color=torch.from_numpy(color_jitter(np.stack(means), jitter_draws, self.vision.jitter)),
            mask=torch.from_numpy(block_masks(self.order.seed, request.epoch, samples, self.vision)),
            sample_ids=torch.from_numpy(samples),
        )
        return Loaded(batch, int((samples != request.samples).sum()), reports)

    def _draws(self, epoch: int, samples: np.ndarray, stream: Stream, count: int) -> np.ndarray:
        return uniforms(self.order.seed, epoch, samples, stream, count)

    def _augmented(self, sample: int, draws: np.ndarray) -> tuple[Tensor, np.ndarray]:
        return augment(image_bytes(self.reader.read(sample).members), draws, self.vision)

    def _replacement(self, request: Request, i: int, reports: list[Report]) -> tuple[int, Tensor, np.ndarray]:
        """The next good sample of the lane, which does not depend on ranks or workers, augmented as itself."""
        if self._epoch_order is None or self._epoch_order.epoch != request.epoch:
            self._epoch_order = EpochOrder(self.index.counts, self.order, request.epoch)
        order = self._epoch_order
        for step in range(1, min(_TRIES, order.lane_length)):
            position = (int(request.positions[i]) + step) % order.lane_length
            samples = order.ids(request.lanes[i : i + 1], position, position + 1)[0]
            draws = self._draws(request.epoch, samples, Stream.CROP, CROP_DRAWS + 1)[0]
            try:
                return int(samples[0]), *self._augmented(int(samples[0]), draws)
            except BadSample as error:
                reports.append(self.reader.report(int(samples[0]), str(error)))
        shard, name, reason = reports[-1]
        raise NoUsableSample(
            f"data.shards: no usable sample among {_TRIES} in a row, the last: {shard}, {name}: {reason}; "
            f"see ./run.sh shards validate shards={shard}"
        )
