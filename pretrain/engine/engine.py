"""One optimizer step of any objective: ZeRO, and a teacher if the objective has one, behind one `step()`.

A rank's loss is its share of the step's mean, already divided by the number of targets of the whole step. So gradients
are to be summed over ranks, and DeepSpeed averages them: `step()` multiplies the loss by the number of ranks.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import deepspeed
import torch
from torch import Tensor

from configs.checks.run import resolve_precision
from configs.resolve.deepspeed import deepspeed_config
from configs.schema import PretrainConfig
from configs.schema_modalities import Modality
from data_shards.batch import SampleBatch
from models import kernels
from models.objective import Objective, ObjectiveOutput
from pretrain.engine import distributed
from pretrain.engine.schedules import learning_rate, teacher_decay
from pretrain.engine.teacher import teacher_optimizer
from pretrain.engine.zero_partitions import partitions


@dataclass(frozen=True)
class StepResult:
    """The outcome of one step.

    `flops` and `statistics` are this rank's, summed when logged; the rest is the whole step's.
    """

    modality: Modality
    applied: bool
    """False if nothing moved: the loss or a gradient was not finite, or the guard held the step back."""
    loss: float
    """Mean over the targets of the whole step; the same on every rank."""
    grad_norm: float
    """Norm of the whole gradient before clipping; not finite if a gradient was not."""
    lr: float
    teacher_decay: float
    targets: Tensor
    tokens: Tensor
    positions: Tensor
    samples: Tensor
    """int64 scalars of the whole step: `data_shards.batch.Counts`."""
    flops: float
    """Floating-point operations of this rank (`Objective.flops`)."""
    statistics: dict[str, Tensor]
    """Additive figures of this rank, from the objective."""
    errors: Tensor | None = None
    """float32 [B, M, T]: losses of this rank's first micro-batch, token by token (`ObjectiveOutput.errors`)."""


Judge = Callable[[Modality, float, float], bool]
"""Return True if a step of a modality with this loss and gradient norm may be applied. Every rank calls it, and gets
the same answer."""


def _finite(modality: Modality, loss: float, grad_norm: float) -> bool:
    return math.isfinite(loss)


class Engine:
    """One optimizer step at a time.

    `steps` counts the steps taken, `skipped` those that were not applied; the schedules see their difference.
    `samples` counts the samples of each modality over all ranks.
    """

    def __init__(self, model: Objective, config: PretrainConfig, device: torch.device) -> None:
        """Move `model` to `device` and hand its parameters to ZeRO."""
        self.config = config
        self.device = device
        self.precision = resolve_precision(config, device.type == "cuda")
        self.steps = 0
        self.skipped = 0
        self._samples = {modality: torch.zeros((), dtype=torch.int64, device=device) for modality in config.modalities}
        self.model = model.to(device)
        settings = deepspeed_config(config, distributed.world(), cuda=device.type == "cuda")
        self.optimizer = self._optimizer(settings)
        names = {parameter: name for name, parameter in model.trained()}
        rounds = self.precision != "fp32"
        exact = {name: p.detach().cpu().clone() for p, name in names.items()} if rounds else None
        self.deepspeed, *_ = deepspeed.initialize(model=model, optimizer=self.optimizer, config=settings)
        self.partitions = partitions(self.deepspeed, names, model.tracked())
        if exact is not None:  # DeepSpeed makes the masters from weights that it has already rounded
            self.partitions.load_masters(exact)
        self.partitions.update_teacher_copy()
        self.optimizer.armed = True

    def _optimizer(self, settings: dict):
        device = torch.device("cpu") if self.config.deepspeed.offload_optimizer else self.device
        if self.config.deepspeed.stage == 0:
            adam = kernels.torch_adam(device, "in ZeRO 0 DeepSpeed would flatten the parameters of apex's")
        else:
            adam = kernels.adam(device)
        self.adam = adam
        options = self.config.optimizer
        groups = [{**group, "teacher_decay": 1.0} for group in self.model.parameter_groups()]
        optimizer = teacher_optimizer(adam.cls)(
            groups, lr=options.lr, betas=options.betas, eps=options.eps, **adam.arguments
        )
        if self.config.deepspeed.stage == 0 and self.precision == "fp32":
            # No wrapper of DeepSpeed's: the optimizer itself clips and refuses non-finite gradients.
            optimizer.clip = options.clip
            settings["gradient_clipping"] = 0.0
        return optimizer

    def resume(self, steps: int, skipped: int, samples: dict[Modality, int]) -> None:
        """Go on from `steps` steps, `skipped` of them not applied, once the partitions are restored."""
        self.steps, self.skipped = steps, skipped
        for modality, count in samples.items():
            self._samples[modality].fill_(count)

    def skip_to(self, steps: int, samples: dict[Modality, int]) -> None:
        """Count the steps from here to `steps` as taken and not applied, their samples as seen. For a rollback."""
        self.resume(steps, self.skipped + steps - self.steps, samples)

    @property
    def applied(self) -> int:
        """Number of applied steps. The schedules are functions of it."""
        return self.steps - self.skipped

    @property
    def samples(self) -> dict[Modality, int]:
        """Samples consumed since the start of training, over all ranks."""
        return {modality: int(count) for modality, count in self._samples.items()}

    @property
    def loss_scale(self) -> float | None:
        """The loss scale of fp16; None in other precisions."""
        return float(self.deepspeed.optimizer.loss_scale) if self.deepspeed.fp16_enabled() else None

    def step(self, micro_batches: Sequence[SampleBatch], judge: Judge = _finite) -> StepResult:
        """Run this rank's micro-batches forward and backward, then update student and teacher once if `judge` agrees.

        All micro-batches are of one modality. Their number is the same on every rank, and may differ between steps.
        """
        modality = micro_batches[0].modality
        lr, decay = self._set_schedules()
        targets, tokens, positions, samples = self.counts(micro_batches)
        self._samples[modality] += samples
        self.optimizer.active = modality
        self.partitions.clear_gradients()
        self.deepspeed.train()
        outputs = [self._micro_step(micro_batches, index, targets) for index in range(len(micro_batches))]
        loss = float(distributed.all_sum(torch.stack([output.loss for output in outputs]).sum(0).double()))
        first = outputs[0].statistics
        statistics = {name: torch.stack([output.statistics[name] for output in outputs]).sum(0) for name in first}
        norm, applied = self._update(lambda norm: judge(modality, loss, norm))
        self.steps += 1
        self.skipped += not applied
        work = sum(self.model.flops(batch) for batch in micro_batches)
        return StepResult(
            modality, applied, loss, norm, lr, decay, targets, tokens, positions, samples, work, statistics,
            outputs[0].errors,
        )  # fmt: skip

    def _update(self, judge: Callable[[float], bool]) -> tuple[float, bool]:
        """Apply the gradient unless it is not finite or `judge` refuses its norm. Returns (norm, True if applied).

        ZeRO calls the base optimizer once per parameter group, after it has measured the gradient. `judge` is asked at
        the first of these calls.
        """
        judged: list[tuple[float, bool]] = []

        def gate() -> bool:
            if not judged:  # processors of different kinds may give one gradient norms that differ in the last bit
                norm = distributed.largest(float(self.partitions.grad_norm), self.device)
                judged.append((norm, judge(norm)))
            return judged[0][1]

        self.optimizer.gate = gate
        self.deepspeed.step()
        if not (self.deepspeed.was_step_applied() and judged):
            norm = self.deepspeed.get_global_grad_norm()
            return float("nan") if norm is None else float(norm), False
        if judged[0][1]:
            self.partitions.update_teacher_copy()
        return judged[0]

    def inputs(
        self, micro_batches: Sequence[SampleBatch], index: int, count: Tensor, step: int
    ) -> tuple[SampleBatch, Tensor, int]:
        """Seed dropout for (step, micro-batch, rank) and return the model's inputs. Call it before the forward pass."""
        seed, batch = self.config.train.seed, micro_batches[index]
        # One pattern of dropped blocks for the whole step, so that its gradient does not depend on how the step is cut.
        # Besides, with offload, or stage 1 and overlapped communication, DeepSpeed reduces gradients at the last
        # micro-batch only. A parameter without a gradient there would lose its gradient of earlier micro-batches.
        shared_seed = _seed(seed, step)
        torch.manual_seed(_seed(seed, step, index, distributed.rank()))
        return batch.to(self.device, non_blocking=True), count, shared_seed

    def _micro_step(self, micro_batches: Sequence[SampleBatch], index: int, count: Tensor) -> ObjectiveOutput:
        """Add the gradient of a micro-batch, and return its outcome without the graph."""
        self.deepspeed.set_gradient_accumulation_boundary(index == len(micro_batches) - 1)
        output = self.deepspeed(*self.inputs(micro_batches, index, count, self.steps))
        self.deepspeed.backward(output.loss * float(distributed.world()))
        return output._replace(loss=output.loss.detach())

    def counts(self, micro_batches: Sequence[SampleBatch]) -> Tensor:
        """Return `data_shards.batch.Counts` of the whole step, int64 [4]. Collective."""
        counts = torch.tensor([batch.counts for batch in micro_batches])
        return distributed.all_sum(counts.sum(0).to(self.device))

    def _set_schedules(self) -> tuple[float, float]:
        """Give the optimizer the learning rate and the teacher's decay of this step, and return both."""
        config = self.config
        length = config.schedule.steps or config.train.steps
        lr = learning_rate(self.applied, config.optimizer, config.schedule, length)
        decay = teacher_decay(self.applied + 1, config.teacher)
        for group in self.optimizer.param_groups:
            group["lr"], group["teacher_decay"] = lr, decay
        return lr, decay


def _seed(*key: int) -> int:
    """Return a seed, a pure function of its key, so that nothing has to be saved.

    Key of the dropped blocks: (seed, step). Key of dropout and drop path: (seed, step, micro-batch, rank).
    """
    digest = hashlib.blake2b(struct.pack(f"<{len(key)}q", *key), digest_size=7).digest()
    return int.from_bytes(digest, "little")
