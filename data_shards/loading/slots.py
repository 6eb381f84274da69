"""Reused shared memory in which batches come from workers.

The system makes the pages of fresh shared memory one by one, when they are first written. That takes longer than
stacking the images of a batch. So each worker writes into a few pieces in turn, and the receiver copies at once.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from configs.modality_config import ModalityConfig
from data_shards.batch import WITHIN_MESSAGE, SampleBatch

log = logging.getLogger(__name__)


class Slots:
    """The pieces of all workers. The process that starts the workers makes them, and keeps them while these live."""

    def __init__(self, workers: int, prefetch: int, size: int) -> None:
        """Reserve the memory. prefetch: batches that a worker may be ahead. size: bytes of the largest batch."""
        # While a worker fills one piece, `prefetch` others may be on their way or being copied.
        self._each, self._size, self._next = prefetch + 1, size + -size % 64, 0
        storage = torch.UntypedStorage._new_shared(workers * self._each * self._size)
        self._memory = torch.empty(0, dtype=torch.uint8).set_(storage)

    def put(self, batch: SampleBatch, worker: int) -> SampleBatch:
        """Return the batch with its inputs in this worker's next piece; unchanged if they are small or do not fit."""
        tensor = batch.inputs
        if not WITHIN_MESSAGE < tensor.nbytes <= self._size:
            return batch
        first = (worker * self._each + self._next) * self._size
        self._next = (self._next + 1) % self._each
        piece = self._memory[first : first + tensor.nbytes].view(tensor.dtype)
        # The piece gets the tensor's strides: channels may lie last.
        inputs = piece.as_strided(tensor.shape, tensor.stride(), piece.storage_offset()).copy_(tensor)
        return replace(batch, inputs=inputs)


def copied_out(batch: SampleBatch) -> SampleBatch:
    """Return the batch with a copy of inputs that lie in shared memory, in the process that received it."""
    return replace(batch, inputs=batch.inputs.clone()) if batch.inputs.is_shared() else batch


def slots_of(config: ModalityConfig) -> Slots | None:
    """Return slots for the workers of a modality whose samples are of one size; None for others.

    Clips and texts travel cheaply: their cost lies elsewhere.
    """
    bytes_of_sample = config.own.input_bytes
    if bytes_of_sample is None or not config.data.workers:
        return None
    try:
        return Slots(config.data.workers, config.data.prefetch, config.batch.micro * bytes_of_sample)
    except RuntimeError as error:  # /dev/shm is too small for all pieces, but may hold one batch after another
        log.warning("no shared memory that is used again: %s", str(error).partition("\n")[0])
        return None
