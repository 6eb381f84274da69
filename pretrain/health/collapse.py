"""Collapse: the spread of each module's outputs over tokens, and the guard that names modules with too little.

A collapsed module gives nearly the same output for every token, or for every token at one position. The loss does not
show it: such targets are easy to predict.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from configs.schema_running import GuardConfig
from data_shards.batch import MaskedBatch
from models.data2vec import Data2Vec, Weights
from models.statistics import effective_rank, sample_share, token_std
from pretrain.engine import distributed

_SAMPLES = 8  # samples of a micro-batch that are measured
_TOKENS = 256  # tokens for the effective rank, whose cost grows with their cube
_FLOOR = 1e-4
"""Standard deviation below which a module has collapsed, whatever it was before: for runs that start collapsed.

It is a tenth of the root of the least epsilon of our LayerNorms, which no longer scale up such values. The least
deviation in fresh networks of all recipes is 0.018 (a text embedding). In the last of 24 post-norm blocks that predict
only the mean it is 0.0013."""


@dataclass(frozen=True)
class ModuleHealth:
    """Spread of a module's outputs."""

    std: float
    """Mean over channels of the standard deviation over tokens."""
    rank: float
    """Effective rank of at most 256 tokens. `std` and `rank` are nan if there are hardly any tokens."""
    share: float = math.nan
    """Share of the variance that is between samples at one position; nan if none has two samples."""


@torch.no_grad()
def measure(model: Data2Vec, batch: MaskedBatch, device: torch.device) -> dict[str, ModuleHealth]:
    """Measure each module on the first samples of a micro-batch; mean over ranks, in the order of the forward pass.

    First come the student's modules on the masked input, then the modules that the teacher averages on the whole input.
    Collective: every rank passes a batch of the same modality, and makes two forward passes. No random numbers are
    drawn, and training mode is restored.
    """
    few = batch.take(torch.arange(min(_SAMPLES, len(batch)), device=batch.inputs.device)).to(device)
    was_training = model.training
    model.eval()
    compiled = model.config.model.compile  # hooks would make it compile the blocks anew
    try:
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            values = _pass(model, few, "student") | _pass(model, few, "teacher")
    finally:
        model.train(was_training)
    means = distributed.all_sum(torch.stack(list(values.values()))) / distributed.world()
    return {name: ModuleHealth(*mean) for name, mean in zip(values, means.tolist(), strict=True)}


def _pass(model: Data2Vec, batch: MaskedBatch, weights: Weights) -> dict[str, Tensor]:
    """Forward pass of one network; float64 [3] by module: standard deviation, effective rank, share."""
    root = model.student if weights == "student" else model.teacher
    # Modules of the student that the teacher's network uses are not among them.
    names = {module: f"{weights}.{name}" for name, module in root.named_modules()}
    found: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for module, real in model.watched(batch, weights):
            if module in names:
                hooks.enter_context(module.register_forward_hook(_hook(names[module], real, found)))
        model.one_pass(batch, weights)
    return found


def _hook(name: str, real: Tensor, found: dict[str, Tensor]) -> Callable[[nn.Module, Any, Tensor], None]:
    """Forward hook that stores the figures of an output [B, prefix + T, C] in `found[name]`.

    real: bool [B, T], the tokens that count.
    """

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        output = output[:, -real.shape[1] :]
        tokens = output[real]
        count = min(_TOKENS, len(tokens))
        places = torch.arange(count, device=tokens.device) * len(tokens) // max(count, 1)
        found[name] = torch.stack([token_std(tokens), effective_rank(tokens[places]), sample_share(output, real)])

    return hook


class CollapseGuard:
    """Names modules, targets and predictions that vary too little.

    Each is named once, and again after a recovery; if a collapse is to stop the run, at every check, so that one that
    was borne before (guard.collapse=warn) stops it as well.
    """

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._references: dict[str, float] = {}
        self._reported: set[str] = set()

    def check_modules(self, step: int, health: dict[str, ModuleHealth], modality: str = "") -> list[str]:
        """Lines for the modules that have collapsed and are to be named, in the order of `health`.

        This is the order of the forward pass, so that the first line names the cause of the others. Until step
        `guard.std_after` the student's blocks are not compared with their first measurement. modality: the batch's in a
        mixture, whose shared blocks have different outputs for each modality; else "".
        """
        lines = []
        for name, values in health.items():
            key = f"{modality}/{name}" if modality else name
            reason = self._reason(key, values, step > self._config.std_after or not _is_student_block(name))
            reason = reason or self._positions_alone(name, values)
            if self._is_news(key, values.std, bool(reason)):
                where = f" on {modality}" if modality else ""
                lines.append(f"{name} has collapsed{where} at step {step}: {reason}")
        return lines

    def check_spread(
        self, step: int, applied_updates: int, modality: str, target_std: float, prediction_std: float
    ) -> list[str]:
        """Lines for targets and for predictions that have collapsed and are to be named.

        They have collapsed if their standard deviation over the masked tokens of the whole step is too low after
        `guard.std_after` updates. Source: fairseq examples/data2vec (models/data2vec_audio.py).
        """
        config, lines = self._config, []
        targets, predictions = (target_std, config.min_target_std), (prediction_std, config.min_prediction_std)
        for noun, (std, least) in {"target": targets, "prediction": predictions}.items():
            low = applied_updates > config.std_after and std < least
            if self._is_news(f"{modality}/{noun}s", std, low):
                where = f"{modality} {noun}s have collapsed at step {step}"
                lines.append(f"{where}: standard deviation over tokens {std:.2g} (guard.min_{noun}_std={least:g})")
        return lines

    def state_dict(self) -> dict[str, Any]:
        """State for JSON: references, and names that have been reported."""
        return {"references": self._references.copy(), "said": sorted(self._reported)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state_dict`."""
        self._references, self._reported = dict(state["references"]), set(state["said"])

    def _reason(self, key: str, values: ModuleHealth, compare: bool) -> str:
        """Reason for which a module counts as collapsed; "" if it does not. Keeps its first value above the floor.

        compare: compare with this first measurement.
        """
        share, least_rank = self._config.min_module_std, self._config.min_module_rank
        varies = f"standard deviation over tokens {values.std:.2g}"
        if share and values.std < _FLOOR:
            return f"{varies}, less than {_FLOOR:g} (guard.min_module_std=0 turns this off)"
        if key not in self._references and values.std >= _FLOOR:
            self._references[key] = values.std
        first = self._references.get(key, 0.0)
        if compare and values.std < share * first:
            return f"{varies}, at first {first:.2g} (guard.min_module_std={share:g} of it)"
        low = values.rank < least_rank
        return f"effective rank {values.rank:.3g} (guard.min_module_rank={least_rank:g})" if low else ""

    def _positions_alone(self, name: str, values: ModuleHealth) -> str:
        """Reason for which a teacher's module says little but where a token is; "" if it says more.

        A student's outputs at masked tokens say no more than that at first.
        """
        least = self._config.min_sample_share
        if not name.startswith("teacher.") or not values.share < least:  # nan is no reason
            return ""
        return (
            f"{values.share:.2g} of its variance is between samples, the rest between positions: it says where a token "
            f"is, and hardly what it holds (guard.min_sample_share={least:g})"
        )

    def _is_news(self, key: str, std: float, collapsed: bool) -> bool:
        """True if `key` is to be named: it has collapsed, and it is the first time or a reason to stop.

        A `std` that is not finite changes nothing.
        """
        if not math.isfinite(std):
            return False
        news = collapsed and (self._config.collapse == "stop" or key not in self._reported)
        (self._reported.add if collapsed else self._reported.discard)(key)
        return news


def _is_student_block(name: str) -> bool:
    """True for the student's blocks.

    Healthy students at first predict little but the mean: in 12 post-norm blocks on speech the last block's deviation
    fell to 0.02 of its first value before it recovered.
    """
    return name.startswith("student.") and "blocks" in name.split(".")
