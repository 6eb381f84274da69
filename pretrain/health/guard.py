"""Guard against bad steps: losses and gradients that are not finite or far above the recent ones.

A step is judged before it is applied, by its loss and its gradient norm, which are the same on every rank.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any, Literal

from configs.schema_modalities import Modality
from configs.schema_running import GuardConfig
from pretrain.engine.engine import StepResult
from pretrain.launching.exits import Halted

Action = Literal["skipped", "applied", "rollback"]

_LEAST_DEVIATION = 0.01  # as a fraction of the mean, so that a small change after nearly equal values is no spike


class RunStopped(Halted):
    """Stop of a run by itself. The message names the reason and the remedy."""


@dataclass(frozen=True)
class Finding:
    """A bad step."""

    step: int
    kind: Literal["not finite", "spike"]
    text: str
    """Description of the fault."""
    action: Action


class Guard:
    """Judges steps and counts bad ones. Its state is part of a checkpoint, so that a resume judges steps the same."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._windows: dict[str, deque[float]] = {}
        self._spike: str | None = None
        self._in_a_row: Counter[str] = Counter()
        """Number of steps skipped since the last applied one, by kind of fault."""
        self._returns: Counter[int] = Counter()
        """Number of rollbacks by the checkpoint's step."""
        self.spikes = 0
        self.rollbacks = 0

    def judge(self, modality: Modality, loss: float, grad_norm: float) -> bool:
        """True if a step may be applied. This is an `engine.Judge`."""
        self._spike = None
        if not math.isfinite(loss):
            return False
        values = {"loss": loss, "gradient norm": grad_norm}
        if self._config.spike != "off":
            scores = (self._score(self._window(modality, name), name, value) for name, value in values.items())
            self._spike = next((text for text in scores if text), None)
        if self._spike and self._config.spike in ("skip", "rollback"):
            return False
        for name, value in values.items():
            self._window(modality, name).append(value)
        return True

    def check(self, step: int, result: StepResult) -> Finding | None:
        """Fault of the step just taken; None if there is none."""
        kind: Literal["not finite", "spike"]
        if result.applied:
            self._in_a_row.clear()
        if self._spike and math.isfinite(result.loss):
            self.spikes += 1
            kind, text = "spike", self._spike
            action: Action = {"warn": "applied", "skip": "skipped"}.get(self._config.spike, "rollback")  # type: ignore[assignment]
        elif not result.applied:
            what = "a gradient" if math.isfinite(result.loss) else "the loss"
            kind, text, action = "not finite", f"{what} was not finite", "skipped"
        else:
            return None
        self._spike = None
        self._in_a_row[kind] += action == "skipped"
        return Finding(step, kind, text, action)

    def first_in_a_row(self, finding: Finding) -> bool:
        """True for the first skip of its kind since the last applied step."""
        return self._in_a_row[finding.kind] == 1

    def stop_if_too_many(self, finding: Finding) -> None:
        """Raise RunStopped after `guard.max_skipped` (not finite) or `guard.max_spikes` skips of one kind in a row.

        Applied steps end a row; skips of the other kind and rollbacks do not.
        """
        limit = self._config.max_skipped if finding.kind == "not finite" else self._config.max_spikes
        if self._in_a_row[finding.kind] < limit:
            return
        if finding.kind == "spike":
            raise RunStopped(
                f"{limit} steps in a row were skipped as spikes, the last was step {finding.step}: {finding.text}. The "
                "loss is on another level for good: lower optimizer.lr, or raise guard.spike_sigma; guard.max_spikes "
                "sets how many are borne. bad_steps.jsonl names the samples."
            )
        raise RunStopped(
            f"{limit} steps in a row had non-finite gradients or losses, the last was step {finding.step}. Nothing was "
            "updated in them. Lower optimizer.lr, lengthen schedule.warmup, or try precision=fp32; guard.max_skipped "
            "sets how many are borne. bad_steps.jsonl names the samples, and the module that was first."
        )

    def rolled_back(self, to_step: int, saved: dict[str, Any]) -> None:
        """Count a rollback to the checkpoint of `to_step` and restore its windows.

        Raises RunStopped after `guard.max_spikes` rollbacks to one checkpoint.
        """
        self.rollbacks += 1
        self._returns[to_step] += 1
        self._windows = self._restored(saved)
        if self._returns[to_step] >= self._config.max_spikes:
            raise RunStopped(
                f"the run went back to step {to_step} {self._returns[to_step]} times (guard.max_spikes), and met a "
                "spike each time. Lower optimizer.lr, or raise guard.spike_sigma; bad_steps.jsonl names the samples."
            )

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint, as JSON types."""
        return {
            "windows": {name: list(window) for name, window in self._windows.items()},
            "in_a_row": dict(self._in_a_row),
            "returns": {str(step): count for step, count in self._returns.items()},
            "spikes": self.spikes,
            "rollbacks": self.rollbacks,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue like the guard that wrote `saved`."""
        self._windows = self._restored(saved)
        self._in_a_row = Counter(saved.get("in_a_row", {}))
        self._returns = Counter({int(step): count for step, count in saved.get("returns", {}).items()})
        self.spikes, self.rollbacks = saved.get("spikes", 0), saved.get("rollbacks", 0)

    def _restored(self, saved: dict[str, Any]) -> dict[str, deque[float]]:
        return {name: self._limited(values) for name, values in saved.get("windows", {}).items()}

    def _window(self, modality: Modality, name: str) -> deque[float]:
        return self._windows.setdefault(f"{modality} {name}", self._limited([]))

    def _limited(self, values: Iterable[float]) -> deque[float]:
        return deque(values, self._config.spike_window)

    def _score(self, window: deque[float], name: str, value: float) -> str | None:
        """Description of the spike that `value` is; None if it is none."""
        if len(window) < self._config.spike_window // 4:
            return None
        mean = fmean(window)
        deviation = max(pstdev(window, mean), _LEAST_DEVIATION * abs(mean))
        if value <= mean + self._config.spike_sigma * deviation:
            return None
        score = (value - mean) / deviation if deviation else math.inf
        return (
            f"{name} {value:.4g} is {score:.1f} standard deviations above the mean {mean:.4g} of the last {len(window)}"
        )
