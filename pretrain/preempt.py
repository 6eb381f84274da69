"""Notices to stop: SIGTERM, SIGINT and SIGUSR1 become a flag that all ranks agree on at a step boundary."""

from __future__ import annotations

import signal
from types import FrameType

import torch

from pretrain import distributed

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Preemption:
    """Installs the handlers; `agreed()` is True on every rank once any rank has been notified.

    DeepSpeed's launcher kills its processes 30 s after SIGTERM and ignores SIGUSR1: where saving takes longer, have
    the cluster send SIGUSR1 in time. A second SIGINT ends the process at once.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)

    def agreed(self, device: torch.device) -> bool:
        """Whether any rank was notified. Collective."""
        flag = torch.tensor([self.received is not None], dtype=torch.int32, device=device)
        return bool(distributed.all_sum(flag).item())