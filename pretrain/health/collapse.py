"""Which module has collapsed: how much the outputs of each vary over tokens, and when that is too little.

A collapsed module makes nearly the same of every token. The loss does not show it: what is the same everywhere is easy
to predict.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from configs.schema_modalities import Modality
from configs.schema_running import GuardConfig
from data_shards.batch import MaskedBatch
from models.data2vec import Data2Vec, Weights
from models.network import real_tokens
from models.statistics import effective_rank, token_std
from pretrain.engine import distributed

_SAMPLES = 8  # of a micro-batch
_TOKENS = 256  # for the rank, whose cost grows with their cube

_FLOOR = 1e-4
"""Standard deviation that is a collapse whatever it was before, for runs that start collapsed: a tenth of the root of
the least epsilon of our LayerNorms, so that they no longer scale it up. Fresh networks of all recipes have 0.018 (a
text embedding's) and more; the last of 24 post-norm blocks that predict nothing but the mean 0.0013."""


@dataclass(frozen=True)
class ModuleHealth:
    """How much a module's outputs vary."""

    std: float
    """Mean over channels of the standard deviation over tokens."""
    rank: float
    """Effective rank of at most 256 tokens; `std` and this are nan where there are hardly any tokens."""


@torch.no_grad()
def measure(model: Data2Vec, batch: MaskedBatch, device: torch.device) -> dict[str, ModuleHealth]:
    """What the modules make of the first samples of a micro-batch, in the order of the forward pass, by their names:
    the student's on its masked view, then those that the teacher averages itself on the whole one.

    Every rank calls it with a batch of the same modality, makes two forward passes and gets the mean over ranks.
    Nothing random is drawn; the mode of training is as before.
    """
    few = batch.take(torch.arange(min(_SAMPLES, len(batch)), device=batch.inputs.device)).to(device)
    was_training = model.training
    model.eval()
    compiled = model.config.model.compile  # blocks would be compiled anew for their hooks
    try:
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            values = _pass(model, few, "student") | _pass(model, few, "teacher")
    finally:
        model.train(was_training)
    means = distributed.all_sum(torch.stack(list(values.values()))) / distributed.world()
    return {name: ModuleHealth(*mean) for name, mean in zip(values, means.tolist(), strict=True)}


def _pass(model: Data2Vec, batch: MaskedBatch, weights: Weights) -> dict[str, Tensor]:
    """One network's forward pass -> float64 [2] of each of its modules: standard deviation and rank."""
    network = model.network(batch.modality, weights)
    watched = _watched(model, batch.modality, weights)
    real = real_tokens(batch.lengths, batch.tokens)
    found: dict[str, Tensor] = {}
    student_input, teacher_input = network.student_teacher_inputs(batch)
    inputs, mask = (student_input, batch.masks[:, 0]) if weights == "student" else (teacher_input, None)
    with ExitStack() as hooks:
        for name, module in watched.items():
            hooks.enter_context(module.register_forward_hook(_hook(name, real, found)))
        network(network.embed(inputs), batch.lengths if batch.padded else None, mask)
    return {name: found[name] for name in watched}


def _watched(model: Data2Vec, modality: Modality, weights: Weights) -> dict[str, nn.Module]:
    """The modules that are looked at, by name, in the order of the forward pass."""
    network = model.network(modality, weights)
    root = model.student if weights == "student" else model.teacher
    names = {module: f"{weights}.{name}" for name, module in root.named_modules()}  # not the student's in the teacher
    modules = [network.get_submodule(network.first_module), *network.encoder.blocks]
    return {names[module]: module for module in modules if module in names}


def _hook(name: str, real: Tensor, found: dict[str, Tensor]) -> Callable[[nn.Module, Any, Tensor], None]:
    """A forward hook that keeps what `real` tokens, bool [B, T], of an output [B, prefix + T, C] tell under `name`."""

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        tokens = output[:, -real.shape[1] :][real]
        count = min(_TOKENS, len(tokens))
        places = torch.arange(count, device=tokens.device) * len(tokens) // max(count, 1)
        found[name] = torch.stack([token_std(tokens), effective_rank(tokens[places])])

    return hook


class CollapseGuard:
    """Says which modules, targets and predictions vary too little: each once, and again after it had recovered."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._references: dict[str, float] = {}
        self._said: set[str] = set()

    def check_modules(self, step: int, health: dict[str, ModuleHealth], modality: str = "") -> list[str]:
        """A line for each module that has collapsed since it was last looked at, in the order of `health`: that of the
        forward pass, so that the first is the cause where there are several.

        Before `guard.std_after` the student's blocks are not held against their first measurement. modality: in a
        mixture, that of the batch: a shared block makes of each modality something else.
        """
        lines = []
        for name, values in health.items():
            key = f"{modality}/{name}" if modality else name
            reason = self._reason(key, values, step > self._config.std_after or not _predicts(name))
            if self._is_news(key, values.std, bool(reason)):
                where = f" on {modality}" if modality else ""
                lines.append(f"{name} has collapsed{where} at step {step}: {reason}")
        return lines

    def check_spread(
        self, step: int, applied_updates: int, modality: str, target_std: float, prediction_std: float
    ) -> list[str]:
        """A line for targets and one for predictions whose standard deviation over masked tokens, of the whole step,
        is too low after `guard.std_after` updates. Source: data2vec.md section 6."""
        config, lines = self._config, []
        targets, predictions = (target_std, config.min_target_std), (prediction_std, config.min_prediction_std)
        for noun, (std, least) in {"target": targets, "prediction": predictions}.items():
            low = applied_updates > config.std_after and std < least
            if self._is_news(f"{modality}/{noun}s", std, low):
                where = f"{modality} {noun}s have collapsed at step {step}"
                lines.append(f"{where}: standard deviation over tokens {std:.2g} (guard.min_{noun}_std={least:g})")
        return lines

    def state_dict(self) -> dict[str, Any]:
        """For JSON: the references and what has been said."""
        return {"references": self._references.copy(), "said": sorted(self._said)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._references, self._said = dict(state["references"]), set(state["said"])

    def _reason(self, key: str, values: ModuleHealth, compare: bool) -> str:
        """Why a module counts as collapsed, "" where it does not. Its first measurement above the floor is kept.

        compare: whether it is held against that.
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

    def _is_news(self, key: str, std: float, collapsed: bool) -> bool:
        """Whether this has just collapsed; what could not be measured changes nothing."""
        if not math.isfinite(std):
            return False
        news = collapsed and key not in self._said
        (self._said.add if collapsed else self._said.discard)(key)
        return news


def _predicts(name: str) -> bool:
    """Whether a module is one of the student's blocks. Healthy students at first predict little but the mean: in 12
    post-norm blocks of speech the last one's outputs fell to 0.02 of their first deviation before they recovered."""
    return name.startswith("student.") and "blocks" in name.split(".")
