"""Snapshot of a rank's part of a checkpoint in host memory, and the thread that writes it to disk."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pretrain.checkpoints.manifest import FileEntry
from pretrain.checkpoints.partition_files import Layout, write_partitions


class Snapshot:
    """Host memory that every save reuses; page-locked if the partitions are on a GPU.

    A thread allocates it in advance: touching fresh pages for the first time takes ten times as long as copying.
    """

    def __init__(self, elements: int, pinned: bool) -> None:
        """elements: expected number of fp32 values of a save."""
        self._device = torch.cuda.current_device() if pinned else None
        self._memory = torch.empty(0)
        self._making = threading.Thread(target=self._make, args=(elements,), daemon=True, name="snapshot")
        self._making.start()

    def take(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies of `tensors` that do not change while training goes on. They are valid until the next call."""
        self._making.join()
        sizes = [tensor.numel() for tensor in tensors.values()]
        if sum(sizes) > len(self._memory):
            self._make(sum(sizes))
        copies = dict(zip(tensors, self._memory[: sum(sizes)].split(sizes), strict=True))
        for name, tensor in tensors.items():
            copies[name].copy_(tensor, non_blocking=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return copies

    def _make(self, elements: int) -> None:
        if self._device is not None:  # a new thread is on the first GPU, where all ranks would allocate
            torch.cuda.set_device(self._device)
        self._memory = torch.empty(elements, pin_memory=self._device is not None).zero_()


class Write:
    """One file in the course of being written by its own thread. Once it is `done`, `entry` or `error` is set."""

    def __init__(self, path: Path, tensors: Mapping[str, Tensor], layout: Layout) -> None:
        self.entry: FileEntry | None = None
        self.error: str | None = None
        self._thread = threading.Thread(target=self._run, args=(path, tensors, layout), daemon=True, name="checkpoint")
        self._thread.start()

    @property
    def done(self) -> bool:
        """True once the file is on disk or has failed."""
        return not self._thread.is_alive()

    def wait(self) -> None:
        """Wait until it is done."""
        self._thread.join()

    def _run(self, path: Path, tensors: Mapping[str, Tensor], layout: Layout) -> None:
        sizes = {name: tensor.numel() for name, tensor in tensors.items()}
        try:
            self.entry = write_partitions(path, sizes, tensors.__getitem__, layout)
        except Exception as error:  # the training thread reports it
            self.error = str(error) or type(error).__name__
