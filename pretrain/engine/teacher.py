"""The teacher as an optimizer state: `teacher <- tau * teacher + (1 - tau) * master`, in fp32, in the same `step()`.

ZeRO hands its base optimizer flat fp32 partitions of the master weights. So a state tensor of the same shape is
sharded, offloaded, saved and loaded like Adam's moments, and costs no communication. It does not move in a step that
ZeRO skips, because ZeRO then never calls `step()`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

STATE = "teacher"


class TeacherMixin:
    """The teacher for an AdamW whose groups carry `teacher: bool`, `teacher_decay: float` and `modality`.

    `active` is the modality of the step. Groups of another `modality` stand still: weights, moments and teacher. Groups
    whose `modality` is None always move.

    `armed` stays False until the engine is built. DeepSpeed's stage 0 wrapper calls `step()` once with zero gradients
    to make the states. This would decay the weights and count as a step.

    `gate` is asked before anything moves, after ZeRO or `clip` has measured the gradient. If it returns False, nothing
    moves.

    `clip` is set if DeepSpeed puts no wrapper around the optimizer (stage 0 in fp32). Then the step does the wrapper's
    work: it takes the gradient of a dropped block as 0, measures and clips the gradient norm, and refuses non-finite
    gradients. DeepSpeed's engine reads `overflow` and `_global_grad_norm` of any optimizer that it holds.
    """

    param_groups: list[dict[str, Any]]
    state: dict[Tensor, dict[str, Any]]
    active: str | None = None
    armed: bool = False
    gate: Callable[[], bool] | None = None
    clip: float | None = None
    overflow: bool = False

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Apply AdamW, then move the teacher. Parameters without a gradient stay unchanged."""
        assert closure is None
        if not self.armed:
            return
        if self.clip is not None and not self._clip_finite(self.clip):
            return
        if self.gate is not None and not self.gate():
            return
        groups = self.param_groups
        self.param_groups = [group for group in groups if group.get("modality") in (None, self.active)]
        try:
            self._update()
        finally:
            self.param_groups = groups

    def _update(self) -> None:
        masters = [(group, p) for group in self.param_groups for p in group["params"] if p.grad is not None]
        tracked = [(group, p) for group, p in masters if group["teacher"]]
        # Cloned before the first update, so that the teacher starts as an exact copy of the student.
        new = {p: p.detach().clone() for _, p in tracked if STATE not in self.state[p]}
        super().step()  # type: ignore[misc]
        for group, p in tracked:
            if p in new:
                self.state[p][STATE] = new[p]
            update(self.state[p][STATE], p.detach(), group["teacher_decay"])

    def _clip_finite(self, limit: float) -> bool:
        """Measure the gradient norm and clip it to `limit` (0: no limit). Returns False if it is not finite."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        for p in parameters:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        self._global_grad_norm = float(norm)
        self.overflow = not bool(torch.isfinite(norm))
        if not self.overflow and limit > 0:
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        return not self.overflow


def update(teacher: Tensor, master: Tensor, decay: float) -> None:
    """Move the average by one step, in place, elementwise, in the order in which a plain implementation rounds."""
    if decay < 1.0:  # at exactly 1 the teacher is frozen
        teacher.mul_(decay).add_(master, alpha=1 - decay)


def teacher_optimizer(adam: type[torch.optim.Optimizer]) -> type:
    """Return the class `adam` (an AdamW that accepts torch's parameter groups) with the teacher as a further state."""
    return type(f"Teacher{adam.__name__}", (TeacherMixin, adam), {})
