"""The student, its teacher and ZeRO behind one `step()`.

DeepSpeed averages gradients over ranks and micro-batches. The objective wants the sum over all masked positions of
the step divided by their number, so the model divides by the whole step's count and `step()` undoes the averaging.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

import deepspeed
import torch
from torch import Tensor

from configs.checks import resolve_precision
from configs.deepspeed import deepspeed_config
from configs.schema import PretrainConfig
from data_shards.batch import MaskedBatch
from models import kernels
from models.data2vec import Data2Vec, parameter_groups
from models.flops import parameters
from pretrain import distributed
from pretrain.schedules import learning_rate, teacher_decay
from pretrain.teacher import teacher_optimizer
from pretrain.zero_partitions import Tracked, partitions


@dataclass(frozen=True)
class StepResult:
    """What one step did, on this rank. Sums over ranks are taken when a row is logged, not every step."""

    applied: bool
    """False where a gradient was not finite: nothing moved."""
    loss: Tensor
    """This rank's share of the loss, fp32 scalar; the sum over ranks is the loss."""
    grad_norm: Tensor | float
    """Norm of the whole gradient before clipping; not finite where the step was skipped."""
    lr: float
    teacher_decay: float
    masked: Tensor
    """int64 scalar: masked positions of the whole step."""
    target_moments: Tensor
    prediction_moments: Tensor
    """Additive moments of this rank's masked positions (`models.statistics`)."""


class Engine:
    """One optimizer step at a time.

    `steps` counts the steps taken, `skipped` those that were not applied; the schedules see their difference.
    """

    def __init__(self, model: Data2Vec, config: PretrainConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.precision = resolve_precision(config, device.type == "cuda")
        self.steps = 0
        self.skipped = 0
        self.model = model.to(device)
        self.micro_steps = config.batch.global_ // (config.batch.micro * distributed.world())
        settings = deepspeed_config(config, distributed.world(), cuda=device.type == "cuda")
        self.optimizer = self._optimizer(settings)
        names = {parameter: name for name, parameter in model.student.named_parameters()}
        tracked = [Tracked(*entry) for entry in model.tracked()]
        rounds = self.precision != "fp32"
        exact = {name: p.detach().cpu().clone() for p, name in names.items()} if rounds else None
        self.deepspeed, *_ = deepspeed.initialize(model=model, optimizer=self.optimizer, config=settings)
        self.partitions = partitions(self.deepspeed, names, tracked)
        if exact is not None:  # DeepSpeed makes the masters from weights that it has already rounded
            self.partitions.load_masters(exact)
        self.partitions.refresh()
        self.optimizer.armed = True
        self._options = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]

    def _optimizer(self, settings: dict):
        device = torch.device("cpu") if self.config.deepspeed.offload_optimizer else self.device
        if self.config.deepspeed.stage == 0:
            adam = kernels.torch_adam(device, "in ZeRO 0 DeepSpeed would flatten the parameters of apex's")
        else:
            adam = kernels.adam(device)
        self.adam = adam
        options = self.config.optimizer
        groups = [{**group, "teacher_decay": 1.0} for group in parameter_groups(self.model, options)]
        optimizer = teacher_optimizer(adam.cls)(
            groups, lr=options.lr, betas=options.betas, eps=options.eps, **adam.arguments
        )
        if self.config.deepspeed.stage == 0 and self.precision == "fp32":
            # No wrapper of DeepSpeed's: the optimizer itself clips and refuses non-finite gradients.
            optimizer.clip = options.clip
            settings["gradient_clipping"] = 0.0
        return optimizer

    def resume(self, steps: int, skipped: int) -> None:
        """Go on after DeepSpeed has loaded a checkpoint of `steps` steps, `skipped` of them not applied."""
        self.steps, self.skipped = steps, skipped
        for group, options in zip(self.optimizer.param_groups, self._options, strict=True):
            group.update(options)  # the configuration's, not the checkpoint's
        self.partitions.refresh()

    @property
    def applied(self) -> int:
        """Applied steps: what the schedules are functions of."""
        return self.steps - self.skipped

    @property
    def loss_scale(self) -> float | None:
        """The loss scale of fp16; None in other precisions."""
        return float(self.deepspeed.optimizer.loss_scale) if self.deepspeed.fp16_enabled() else None

    @property
    def description(self) -> str:
        """One line for the log: parameters, precision, and the kernels with the reasons for their choice."""
        size = f"{parameters(self.config) / 1e6:.2f} M parameters in {self.precision}"
        return f"{size}; LayerNorm: {kernels.layer_norm(self.device)}; Adam: {self.adam}"

    def step(self, micro_batches: list[MaskedBatch]) -> StepResult:
        """Forward and backward of this rank's micro-batches, then one update of student and teacher."""
        assert len(micro_batches) == self.micro_steps
        lr, decay = self._set_schedules()
        masked = torch.stack([batch.mask.sum() for batch in micro_batches]).sum().to(self.device)
        distributed.all_sum(masked)
        undo_averaging = float(self.micro_steps * distributed.world())
        self.deepspeed.train()
        outputs = []
        for index, batch in enumerate(micro_batches):
            torch.manual_seed(_dropout_seed(self.config.train.seed, self.steps, index, distributed.rank()))
            output = self.deepspeed(batch.to(self.device, non_blocking=True), masked)
            self.deepspeed.backward(output.loss * undo_averaging)
            outputs.append((output.loss.detach(), output.target_moments, output.prediction_moments))
            self.deepspeed.step()
        applied = self.deepspeed.was_step_applied()
        if applied:
            self.partitions.refresh()
        self.steps += 1
        self.skipped += not applied
        loss, targets, predictions = (torch.stack(values).sum(0) for values in zip(*outputs, strict=True))
        norm = self.deepspeed.get_global_grad_norm()
        norm = float("nan") if norm is None else norm
        return StepResult(applied, loss, norm, lr, decay, masked, targets, predictions)

    def _set_schedules(self) -> tuple[float, float]:
        config = self.config
        length = config.schedule.steps or config.train.steps
        lr = learning_rate(self.applied, config.optimizer, config.schedule, length)
        decay = teacher_decay(self.applied, config.teacher)
        for group in self.optimizer.param_groups:
            group["lr"], group["teacher_decay"] = lr, decay
        return lr, decay


def _dropout_seed(seed: int, step: int, micro_batch: int, rank: int) -> int:
    """The generator of dropout and drop path, a pure function of its key, so that nothing has to be saved."""
    digest = hashlib.blake2b(struct.pack("<4q", seed, step, micro_batch, rank), digest_size=7).digest()
    return int.from_bytes(digest, "little")
