"""Shared memory in which batches come from workers, used over and over.

The pages of fresh shared memory are made one by one as they are first written, which takes longer than stacking the
images of a batch; so each worker writes into a few pieces in turn, and what comes out of them is copied at once.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from configs.modality_config import ModalityConfig
from data_shards.batch import WITHIN_MESSAGE, SampleBatch

log = logging.getLogger(__name__)


class Slots:
    """The pieces of all workers. The process that starts the workers makes it, and keeps it as long as they live."""

    def __init__(self, workers: int, prefetch: int, size: int) -> None:
        """prefetch: batches that a worker may be ahead; size: bytes of the largest one."""
        # While a worker fills one piece, `prefetch` others may be on their way or being copied.
        self._each, self._size, self._next = prefetch + 1, size + -size % 64, 0
        storage = torch.UntypedStorage._new_shared(workers * self._each * self._size)
        self._memory = torch.empty(0, dtype=torch.uint8).set_(storage)

    def put(self, batch: SampleBatch, worker: int) -> SampleBatch:
        """The batch with its inputs in this worker's next piece; as it is where they are small."""
        tensor = batch.inputs
        if not WITHIN_MESSAGE < tensor.nbytes <= self._size:
            return batch
        first = (worker * self._each + self._next) * self._size
        self._next = (self._next + 1) % self._each
        piece = self._memory[first : first + tensor.nbytes].view(tensor.dtype)
        # With the strides of the tensor: channels may lie last.
        inputs = piece.as_strided(tensor.shape, tensor.stride(), piece.storage_offset()).copy_(tensor)
        return replace(batch, inputs=inputs)


def copied_out(batch: SampleBatch) -> SampleBatch:
    """The batch with inputs of its own, in the process that has got it."""
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
    except RuntimeError as error:  # /dev/shm has not so much room, and may have enough for batch after batch
        log.warning("no shared memory that is used again: %s", str(error).partition("\n")[0])
        return None
