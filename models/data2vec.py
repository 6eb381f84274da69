"""data2vec: from a masked sample, a student predicts a teacher's outputs for the whole sample, at the masked tokens.

Shapes: B samples, T tokens, H width, K top blocks, R rows (a sample's masked tokens, padded to a common number).
The teacher is the exponential moving average of the student; the optimizer averages it (`pretrain.engine.teacher`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.checks.run import check_sizes
from configs.modality_config import RegressionConfig, TargetConfig
from configs.published import Normalisation
from configs.schema import PretrainConfig
from configs.schema_modalities import Modality
from data_shards.batch import MaskedBatch, SampleBatch
from models.build import make_student, make_teacher, modality_of, network_of, part_state
from models.flops import flops
from models.layers.blocks import Block, select_tokens
from models.layers.masked import masked_rows, real_tokens
from models.network import Network
from models.objective import Objective, ObjectiveOutput, Tracked
from models.statistics import moments

__all__ = ["Data2Vec", "Weights", "part_state"]

Weights = Literal["teacher", "student"]

_EPS = 1e-5  # of normalised targets: the default of torch's functional norms, which the authors' code uses


class Data2Vec(Objective):
    """Student and teacher of one modality, or of several that take turns."""

    def __init__(self, config: PretrainConfig) -> None:
        """Draw the student's weights from `train.seed`, and make the teacher its exact copy.

        The global generator is left alone. Raises ValueError if the configuration's sizes contradict each other.
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

    def forward(self, batch: SampleBatch, count: Tensor, shared_seed: int = 0) -> ObjectiveOutput:
        """Compute the loss of a micro-batch, and the moments of its targets and predictions.

        batch: a `MaskedBatch` of one mask per sample. count: scalar, number of masked tokens in the step, over all
        ranks. shared_seed: see `Objective.forward`. Statistics `target` and `prediction`: float64 [1 + 2 H], see
        `statistics.moments`.
        """
        assert isinstance(batch, MaskedBatch)
        config = self.configs[batch.modality]
        rows, weight = masked_rows(only_mask(batch), config.own.most_masked or max(1, batch.most_masked or 0))
        student_input, teacher_input = self.embed(batch)
        targets = self.targets(batch, teacher_input, rows)
        predictions = self.predictions(batch, student_input, rows, shared_seed)
        losses = token_losses(predictions, targets, config.loss) * weight
        errors = at_tokens(losses, rows, batch)
        return ObjectiveOutput(losses.sum() / count, spread(targets, predictions, weight), errors)

    def network(self, modality: Modality, weights: Weights) -> Network:
        """Return the student's or the teacher's network of one modality."""
        return network_of(self.teacher if weights == "teacher" else self.student, self.config, modality)

    def embed(self, batch: MaskedBatch) -> tuple[Tensor, Tensor]:
        """Return the local features of every token, [B, T, H], for the student and for the teacher.

        They are computed once if both get the same input and the teacher averages no part of the local encoder.
        """
        student, teacher = self.network(batch.modality, "student"), self.network(batch.modality, "teacher")
        student_input, teacher_input = student.student_teacher_inputs(batch)
        features = student.embed(student_input)
        if teacher_input is student_input and self.configs[batch.modality].teacher.average != "all":
            return features, features.detach()
        with torch.no_grad():
            return features, teacher.embed(teacher_input)

    @torch.no_grad()
    def targets(self, batch: MaskedBatch, features: Tensor, rows: Tensor) -> Tensor:
        """Return the targets, float32 [B, R, H]: the teacher's top K blocks at the rows, normalised and averaged.

        features: the teacher's, from `embed`. rows: int64 [B, R]. Instance norm's statistics are of the sample's own
        real tokens, without CLS.
        """
        options = self.configs[batch.modality].teacher
        network = self.network(batch.modality, "teacher")
        if "instance" in (options.block_norm, options.mean_norm):  # over all tokens, so all are computed
            return select_tokens(self.all_targets(batch, features), rows)
        *lower, last = network(features, _lengths(batch), rows=rows, top=options.layers, target=options.target)
        outputs = [select_tokens(output, rows + network.prefix) for output in lower] + [last]
        return average(outputs, batch.lengths, options)

    @torch.no_grad()
    def all_targets(self, batch: MaskedBatch, features: Tensor) -> Tensor:
        """Return the targets of every token, float32 [B, T, H]. features: the teacher's, from `embed`."""
        options, network = self.configs[batch.modality].teacher, self.network(batch.modality, "teacher")
        outputs = network(features, _lengths(batch), top=options.layers, target=options.target)
        return average([output[:, network.prefix :] for output in outputs], batch.lengths, options)

    def predictions(self, batch: MaskedBatch, features: Tensor, rows: Tensor, shared_seed: int = 0) -> Tensor:
        """Return the predictions, float32 [B, R, H]: the regression head on the student's last block at the rows.

        features: the student's, from `embed`. rows: int64 [B, R].
        """
        network = self.network(batch.modality, "student")
        (last,) = network(features, _lengths(batch), only_mask(batch), rows, layer_seed=shared_seed)
        return network.predict(last).float()

    def train(self, mode: bool = True) -> Data2Vec:
        """Set the student's mode, as nn.Module.train does; the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def trained(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Name every parameter of the student."""
        return self.student.named_parameters()

    def tracked(self) -> list[Tracked]:
        """Return all that the teacher averages."""
        teacher = dict(self.teacher.named_parameters())
        return [Tracked(name, student, teacher[name]) for name, student in self.trained() if name in teacher]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the student's parameters as optimizer groups.

        The decay rule `matrices` spares one-dimensional parameters, biases and the CLS vector. Vision's mask vector and
        relative position table are decayed, as in the authors' code (data2vec_vision).
        """
        options = self.config.optimizer
        averaged = {entry.name for entry in self.tracked()}
        groups: dict[tuple, list[nn.Parameter]] = {}
        for name, parameter in self.trained():
            exempt = parameter.dim() <= 1 or name.endswith(("bias", "tokens.cls"))
            key = (modality_of(name, self.config), name in averaged, exempt and options.decay_rule == "matrices")
            groups.setdefault(key, []).append(parameter)
        decay = options.weight_decay
        return [
            {"params": groups[key], "weight_decay": 0.0 if spared else decay, "teacher": teacher, "modality": modality}
            for key in sorted(groups, key=lambda key: (key[0] or "", not key[1], key[2]))
            for modality, teacher, spared in [key]
        ]

    def flops(self, batch: SampleBatch) -> float:
        """Return the operations of student and teacher (see `models.flops`)."""
        assert isinstance(batch, MaskedBatch)
        masked = only_mask(batch).sum(1).tolist()
        return flops(self.configs[batch.modality], batch.lengths.tolist(), masked)

    def watched(self, batch: MaskedBatch, weights: Weights) -> list[tuple[nn.Module, Tensor]]:
        """Return the modules of one network whose outputs tell of a collapse, in the order of the forward pass.

        With each comes bool [B, T], the tokens that count among the last T of its outputs in `one_pass`.
        """
        network, real = self.network(batch.modality, weights), real_tokens(batch.lengths, batch.tokens)
        modules = [network.get_submodule(network.first_module), *network.encoder.blocks]
        return [(module, real) for module in modules]

    def one_pass(self, batch: MaskedBatch, weights: Weights) -> None:
        """Run one network as the objective does, for those who watch its modules."""
        network = self.network(batch.modality, weights)
        student_input, teacher_input = network.student_teacher_inputs(batch)
        inputs, mask = (student_input, only_mask(batch)) if weights == "student" else (teacher_input, None)
        network(network.embed(inputs), _lengths(batch), mask)

    @torch.no_grad()
    def features(self, batch: SampleBatch, weights: Weights = "teacher") -> Tensor:
        """Return a vector per sample, float32 [N, H]: the top K blocks averaged, then the mean over content tokens.

        `batch` is on the model's device, and goes through it in one pass. Instance norm would make the mean over tokens
        0, so LayerNorm replaces it.
        """
        network = self.network(batch.modality, weights)
        was_training = network.training
        network.eval()
        features = self._features(network, batch)
        network.train(was_training)
        return features

    def _features(self, network: Network, batch: SampleBatch) -> Tensor:
        options = self.configs[batch.modality].teacher
        norm: Normalisation = "layer" if options.block_norm == "instance" else options.block_norm
        _, whole = network.student_teacher_inputs(batch)
        outputs = network(network.embed(whole), _lengths(batch), top=options.layers, target=options.target)
        outputs = [output[:, network.prefix :] for output in outputs]
        content = network.content(batch)[..., None]
        mean = average(outputs, batch.lengths, replace(options, block_norm=norm, mean_norm="none"))
        return mean.masked_fill(~content, 0).sum(1) / content.sum(1).clamp(min=1)


def only_mask(batch: MaskedBatch) -> Tensor:
    """Return the mask of each sample, bool [B, T]: data2vec masks a sample once."""
    assert batch.masks.shape[1] == 1
    return batch.masks[:, 0]


def _lengths(batch: SampleBatch) -> Tensor | None:
    """Return the lengths; None if no sample is padded, since fused attention is fastest without a bias."""
    return batch.lengths if batch.padded else None


def spread(targets: Tensor, predictions: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Return the moments of targets and predictions [B, R, H] by name, weighted by `weight` [B, R]."""
    flat = weight.flatten()
    return {
        "target": moments(targets.flatten(0, 1), flat),
        "prediction": moments(predictions.flatten(0, 1), flat),
    }


def average(blocks: list[Tensor], lengths: Tensor, options: TargetConfig) -> Tensor:
    """Return the normalised average, float32 [B, N, H], of block outputs [B, N, H]."""
    total = torch.zeros_like(blocks[0], dtype=torch.float32)
    for block in blocks:
        total += _normalise(block.float(), lengths, options.block_norm)
    return _normalise(total / len(blocks), lengths, options.mean_norm)


def _normalise(x: Tensor, lengths: Tensor, kind: Normalisation) -> Tensor:
    """Normalise x [B, N, H] over a token's channels, over a sample's real tokens, or not at all; without affine."""
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


def at_tokens(losses: Tensor, rows: Tensor, batch: MaskedBatch) -> Tensor:
    """Return losses [N, R] of the tokens at rows int64 [N, R] as float32 [B, M, T], without a graph; 0 elsewhere."""
    whole = losses.new_zeros(len(rows), batch.tokens, dtype=torch.float32)
    return whole.scatter_(1, rows, losses.detach().float()).view(len(batch), -1, batch.tokens)


def token_losses(predictions: Tensor, targets: Tensor, loss: RegressionConfig) -> Tensor:
    """Return the Smooth-L1 loss of [B, R, H], reduced over H: [B, R].

    beta 0: the squared error, without the factor 1/2.
    """
    if loss.beta:
        elements = F.smooth_l1_loss(predictions, targets, reduction="none", beta=loss.beta)
    else:
        elements = F.mse_loss(predictions, targets, reduction="none")
    match loss.reduction:
        case "sqrt":
            return elements.sum(-1) * elements.shape[-1] ** -0.5
        case "sum":
            return elements.sum(-1)
        case _:
            return elements.mean(-1)
