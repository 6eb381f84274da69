"""Shared memory in which batches come from workers.

The system makes the pages of fresh shared memory one by one, when they are first written. That takes longer than
stacking the images of a batch. So each worker writes images into a few pieces in turn, and the receiver copies at once.
Other large tensors get fresh shared memory. What finds no room in /dev/shm is sent as bytes, which is slower: a
container has 64 MiB there unless it is given more.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from configs.modality_config import ModalityConfig
from data_shards.batch import WITHIN_MESSAGE, SampleBatch
from data_shards.order.cursor import local_ranks
from data_shards.processes import shared_memory_room

log = logging.getLogger(__name__)

_LEFT = 8 * 2**20  # bytes of /dev/shm that stay free, for semaphores and the buffers of NCCL


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


def in_shared_memory(batch: SampleBatch) -> SampleBatch:
    """Return the batch with each of its large tensors in shared memory that finds room there."""

    def share(tensor: Tensor) -> Tensor:
        if tensor.nbytes > WITHIN_MESSAGE and not tensor.is_shared() and _fits(tensor.nbytes):
            with suppress(RuntimeError):  # another process was faster
                tensor.share_memory_()
        return tensor

    return batch.map(share)


def copied_out(batch: SampleBatch) -> SampleBatch:
    """Return the batch with copies of tensors that lie in shared memory, in the process that received it."""
    return batch.map(lambda tensor: tensor.clone() if tensor.is_shared() else tensor)


def slots_of(config: ModalityConfig) -> Slots | None:
    """Return slots for the workers of a modality whose samples are of one size; None for others, or without room.

    Clips and texts travel cheaply: their cost lies elsewhere. Says so if /dev/shm may be too small: of images each rank
    that finds no room, of others one on each node.
    """
    workers, prefetch, size = config.data.workers, config.data.prefetch, _batch_bytes(config)
    need = workers * (prefetch + 1) * size
    slots = None
    if need and config.longest is None and _fits(need):
        with suppress(RuntimeError):
            slots = Slots(workers, prefetch, size)
    fits = slots or (config.longest is not None and _fits(need * local_ranks()))
    if need and not fits and (config.longest is None or os.environ.get("LOCAL_RANK", "0") == "0"):
        _warn(need * local_ranks())
    return slots


def _batch_bytes(config: ModalityConfig) -> int:
    """Return the bytes of the largest micro-batch; 0 if it is so small that it is sent as bytes."""
    samples, budget = config.batch.micro, config.batch.micro_tokens
    if config.longest is not None and budget is not None:
        samples = max(1, min(samples, budget // config.longest))
    size = samples * config.own.input_bytes
    return size if size > WITHIN_MESSAGE else 0


def _fits(size: int) -> bool:
    room = shared_memory_room()
    return room is None or size <= room - _LEFT


def _warn(need: int) -> None:
    room = (shared_memory_room() or 0) / 2**20
    log.warning(
        "/dev/shm has %.0f MiB free, and batches on their way from loader processes may need %.0f MiB: those that find "
        "no room are sent as bytes, which is slower; give it more (docker run --shm-size=%dg), or lower data.workers, "
        "data.prefetch or batch.micro",
        room, need / 2**20, -(-(need + 2 * _LEFT) // 2**30),
    )  # fmt: skip
