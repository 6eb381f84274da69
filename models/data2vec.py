"""The objective: a student sees a masked sample and predicts, where it is masked, what a teacher sees in the whole.

Shapes: B samples, T tokens, M rows: the masked tokens of a sample, padded to a common number, H width, K top blocks.
The teacher is the exponential moving average of the student; who averages it is not this file's business.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.checks import check_sizes
from configs.modality_config import ModalityConfig, RegressionConfig, TargetConfig
from configs.published import Normalisation
from configs.schema import PretrainConfig
from configs.schema_modalities import Modality
from configs.schema_training import OptimizerConfig
from data_shards.batch import MaskedBatch
from models.build import make_student, make_teacher, modality_of, network_of, part_state
from models.network import Network, real_tokens
from models.statistics import moments
from models.transformer import Block, select_tokens

__all__ = ["Data2Vec", "Data2VecOutput", "Weights", "parameter_groups", "part_state"]

Weights = Literal["teacher", "student"]

FEATURE_BATCH = 256  # samples per forward pass of `features` at most,
FEATURE_TOKENS = 8192  # and speech and text tokens: a pass of the feature encoder holds 300 times their bytes

_EPS = 1e-5  # of normalised targets (data2vec.md section 1)


class Data2VecOutput(NamedTuple):
    """What one micro-batch adds to the step."""

    loss: Tensor
    """float32 scalar: this micro-batch's share of the step's loss."""
    target_moments: Tensor
    """float64 [1 + 2 H], see `statistics.moments`."""
    prediction_moments: Tensor
    """float64 [1 + 2 H]."""


class Data2Vec(nn.Module):
    """Student and teacher of one modality, or of several that take turns."""

    def __init__(self, config: PretrainConfig) -> None:
        """Draw the student from `train.seed` (the global generator is left alone); the teacher is its exact copy.

        ValueError where the configuration's sizes contradict each other.
        """
        super().__init__()
        check_sizes(config)
        self.config = config
        self.configs = {modality: config.for_modality(modality) for modality in config.modalities}
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.train.seed)
            self.student = make_student(config)
        self.teacher = make_teacher(self.student, config)
        if config.model.compile:
            self._compile()

    def _compile(self) -> None:
        """Compile each block in place with torch.compile; parameter names stay. Lengths of speech and text vary."""
        for module in self.modules():
            if isinstance(module, Block):
                module.compile(dynamic=any(config.longest is not None for config in self.configs.values()))

    def forward(self, batch: MaskedBatch, masked_count: Tensor, shared_seed: int = 0) -> Data2VecOutput:
        """Loss and statistics of a micro-batch.

        masked_count: scalar, the masked tokens of the whole optimizer step over all ranks; the losses of its
        micro-batches then sum to the mean over every masked token. shared_seed: the same on every rank; layer drop is
        drawn from it.
        """
        config = self.configs[batch.modality]
        rows, weight = masked_rows(batch.mask, _row_count(config, batch))
        seen, whole = self.local(batch)
        targets = self.targets(batch, whole, rows)
        predictions = self.predictions(batch, seen, rows, shared_seed)
        loss = regression_loss(predictions, targets, weight, config.loss) / masked_count
        flat = weight.flatten()
        return Data2VecOutput(loss, moments(targets.flatten(0, 1), flat), moments(predictions.flatten(0, 1), flat))

    def network(self, modality: Modality, weights: Weights) -> Network:
        """The student's or the teacher's network of one modality."""
        return network_of(self.teacher if weights == "teacher" else self.student, self.config, modality)

    def local(self, batch: MaskedBatch) -> tuple[Tensor, Tensor]:
        """[B, T, H] twice: what each token says on its own, to the student and to the teacher.

        Computed once where the teacher averages none of it and sees what the student sees (unmasked).
        """
        student, teacher = self.network(batch.modality, "student"), self.network(batch.modality, "teacher")
        seen, whole = student.views(batch)
        features = student.local(seen)
        if whole is seen and self.configs[batch.modality].teacher.average != "all":
            return features, features.detach()
        with torch.no_grad():
            return features, teacher.local(whole)

    @torch.no_grad()
    def targets(self, batch: MaskedBatch, whole: Tensor, rows: Tensor) -> Tensor:
        """float32 [B, M, H]: the teacher's top K blocks at the rows, normalised, averaged, normalised."""
        options = self.configs[batch.modality].teacher
        network = self.network(batch.modality, "teacher")
        if "instance" in (options.block_norm, options.mean_norm):  # over all tokens, so all are computed
            outputs = network(whole, _lengths(batch), top=options.layers, target=options.target)
            return select_tokens(average(outputs, batch.lengths, options), rows)
        *lower, last = network(whole, _lengths(batch), rows=rows, top=options.layers, target=options.target)
        outputs = [select_tokens(output, rows + network.prefix) for output in lower] + [last]
        return average(outputs, batch.lengths, options)

    def predictions(self, batch: MaskedBatch, seen: Tensor, rows: Tensor, shared_seed: int = 0) -> Tensor:
        """float32 [B, M, H]: the regression head on the student's last block at the rows."""
        network = self.network(batch.modality, "student")
        (last,) = network(seen, _lengths(batch), batch.mask, rows, layer_seed=shared_seed)
        return network.predict(last).float()

    def train(self, mode: bool = True) -> Data2Vec:
        """As nn.Module.train; the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def tracked(self) -> list[tuple[str, nn.Parameter, nn.Parameter]]:
        """(name, student's parameter, teacher's parameter) of all that is averaged."""
        teacher = dict(self.teacher.named_parameters())
        student = self.student.named_parameters()
        return [(name, parameter, teacher[name]) for name, parameter in student if name in teacher]

    @torch.no_grad()
    def features(self, batch: MaskedBatch, weights: Weights = "teacher") -> Tensor:
        """float32 [N, H]: what the targets are made of, all K blocks averaged, as its mean over a sample's content.

        `batch` is of any size, on the model's device, and nothing in it is masked. The number of forward passes
        depends on N alone (ZeRO 3 needs it equal on all ranks). Over a sample's tokens the mean of an instance norm
        is zero, so LayerNorm takes its place.
        """
        network = self.network(batch.modality, weights)
        was_training = network.training
        network.eval()
        chunks = torch.arange(len(batch), device=batch.inputs.device).split(
            _feature_batch(self.configs[batch.modality])
        )
        features = torch.cat([self._features(network, batch.take(rows)) for rows in chunks])
        network.train(was_training)
        return features

    def _features(self, network: Network, batch: MaskedBatch) -> Tensor:
        options = self.configs[batch.modality].teacher
        norm: Normalisation = "layer" if options.block_norm == "instance" else options.block_norm
        _, whole = network.views(batch)
        outputs = network(network.local(whole), _lengths(batch), top=options.layers, target=options.target)
        outputs = [output[:, network.prefix :] for output in outputs]
        content = network.content(batch)[..., None]
        mean = average(outputs, batch.lengths, replace(options, block_norm=norm, mean_norm="none"))
        return mean.masked_fill(~content, 0).sum(1) / content.sum(1).clamp(min=1)


def _row_count(config: ModalityConfig, batch: MaskedBatch) -> int:
    """Rows of every sample: static for images; for others as many as this micro-batch needs."""
    return config.vision.mask.patches if config.modality == "vision" else max(1, batch.most_masked or 0)


def _lengths(batch: MaskedBatch) -> Tensor | None:
    """None where no sample is padded: fused attention has its fastest kernels for no bias at all."""
    return batch.lengths if batch.padded else None


def _feature_batch(config: ModalityConfig) -> int:
    """Samples per forward pass of `features`, from the longest that there may be."""
    return max(1, min(FEATURE_BATCH, FEATURE_TOKENS // (config.longest or 1)))


def masked_rows(mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """mask bool [B, T] -> positions int64 [B, M] of the masked tokens, and weight float32 [B, M].

    M = min(count, T) whatever the mask holds, so that shapes are static; padding rows have weight 0.
    """
    assert mask.device.type != "cpu" or int(mask.sum(1).max()) <= count, "more patches masked than vision.mask.patches"
    order = mask.byte().argsort(dim=1, descending=True, stable=True)[:, :count]
    return order, mask.gather(1, order).float()


def average(blocks: list[Tensor], lengths: Tensor, options: TargetConfig) -> Tensor:
    """Block outputs [B, N, H] -> their normalised average, float32 [B, N, H]."""
    total = torch.zeros_like(blocks[0], dtype=torch.float32)
    for block in blocks:
        total += _normalise(block.float(), lengths, options.block_norm)
    return _normalise(total / len(blocks), lengths, options.mean_norm)


def _normalise(x: Tensor, lengths: Tensor, kind: Normalisation) -> Tensor:
    """x [B, N, H] over the channels of a token, over the real tokens of a sample, or not at all; without affine."""
    match kind:
        case "layer":
            return F.layer_norm(x, x.shape[-1:], eps=_EPS)
        case "instance":
            return _instance_norm(x, lengths)
    return x


def _instance_norm(x: Tensor, lengths: Tensor) -> Tensor:
    """x [B, N, H], lengths [B] -> each channel with mean 0 and biased variance 1 over a sample's real tokens."""
    padding, count = ~real_tokens(lengths, x.shape[1])[..., None], lengths[:, None, None]
    x = x - x.masked_fill(padding, 0).sum(1, keepdim=True) / count
    variance = x.square().masked_fill_(padding, 0).sum(1, keepdim=True) / count
    return x * (variance + _EPS).rsqrt()


def regression_loss(predictions: Tensor, targets: Tensor, weight: Tensor, loss: RegressionConfig) -> Tensor:
    """Smooth-L1 (beta 0: squared error, without 1/2) of [B, M, H], reduced over H, weighted sum over B and M."""
    if loss.beta:
        elements = F.smooth_l1_loss(predictions, targets, reduction="none", beta=loss.beta)
    else:
        elements = F.mse_loss(predictions, targets, reduction="none")
    match loss.reduction:
        case "sqrt":
            of_tokens = elements.sum(-1) * elements.shape[-1] ** -0.5
        case "sum":
            of_tokens = elements.sum(-1)
        case _:
            of_tokens = elements.mean(-1)
    return (of_tokens * weight).sum()


def parameter_groups(model: Data2Vec, config: OptimizerConfig) -> list[dict]:
    """The student's parameters as optimizer groups: params, weight_decay, teacher, modality.

    `teacher`: whether they are averaged. `modality`: in a mixture the only one whose steps may move them, None where
    all may. The decay rule `matrices` spares one-dimensional parameters, biases and the CLS vector; vision's mask
    vector and relative position table are decayed (data2vec.md 2.6, BV).
    """
    averaged = {name for name, _, _ in model.tracked()}
    groups: dict[tuple, list[nn.Parameter]] = {}
    for name, parameter in model.student.named_parameters():
        exempt = parameter.dim() <= 1 or name.endswith(("bias", "tokens.cls"))
        key = (modality_of(name, model.config), name in averaged, exempt and config.decay_rule == "matrices")
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": groups[key], "weight_decay": 0.0 if spared else config.weight_decay, "teacher": t, "modality": m}
        for key in sorted(groups, key=lambda key: (key[0] or "", not key[1], key[2]))
        for m, t, spared in [key]
    ]
