"""The objective: a student sees a masked sample and predicts, where it is masked, what a teacher sees in the whole.

Shapes: B samples, T patches, M rows: the masked patches of a sample, padded to a fixed number, H width, K top blocks.
The teacher is the exponential moving average of the student; who averages it is not this file's business.
"""

from __future__ import annotations

import copy
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.checks import check_sizes
from configs.schema import Normalisation, OptimizerConfig, PretrainConfig
from data_shards.batch import MaskedBatch
from models.statistics import moments
from models.transformer import select_tokens
from models.vision import VisionTransformer, normalise, patchify

Weights = Literal["teacher", "student"]

FEATURE_BATCH = 256  # images per forward pass of `features`


class Data2VecOutput(NamedTuple):
    """What one micro-batch adds to the step."""

    loss: Tensor
    """float32 scalar: this micro-batch's share of the step's loss."""
    target_moments: Tensor
    """float64 [1 + 2 H], see `statistics.moments`."""
    prediction_moments: Tensor
    """float64 [1 + 2 H]."""


class Data2Vec(nn.Module):
    """Student and teacher of one modality."""

    def __init__(self, config: PretrainConfig) -> None:
        """Draw the student from `train.seed` (the global generator is left alone); the teacher is its exact copy.

        ValueError where the configuration's sizes contradict each other.
        """
        super().__init__()
        check_sizes(config)
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.train.seed)
            self.student = VisionTransformer(config)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()
        if config.model.compile:
            self.student.encoder.compile_blocks()
            self.teacher.encoder.compile_blocks()

    def forward(self, batch: MaskedBatch, masked_count: Tensor) -> Data2VecOutput:
        """Loss and statistics of a micro-batch.

        masked_count: scalar, the masked patches of the whole optimizer step over all ranks; the losses of its
        micro-batches then sum to the mean over every masked element.
        """
        patches = self.patches(batch)
        rows, weight = masked_rows(batch.mask, self.config.vision.mask.patches)
        targets = self.targets(patches, rows)
        predictions = self.predictions(patches, batch.mask, rows)
        loss = regression_loss(predictions, targets, weight, self.config.loss.beta) / masked_count
        flat = weight.flatten()
        return Data2VecOutput(loss, moments(targets.flatten(0, 1), flat), moments(predictions.flatten(0, 1), flat))

    def patches(self, batch: MaskedBatch) -> Tensor:
        """Augmented, normalised patches [B, T, 3 * P * P] in the parameters' dtype, the same for both networks."""
        vision, dtype = self.config.vision, next(self.student.parameters()).dtype
        return patchify(normalise(batch.inputs, batch.color, vision.mean, vision.std, dtype), vision.patch_size)

    @torch.no_grad()
    def targets(self, patches: Tensor, rows: Tensor) -> Tensor:
        """float32 [B, M, H]: the teacher's top K blocks at the rows, normalised, averaged, normalised."""
        *lower, last = self.teacher(patches, rows=rows, top=self.config.teacher.layers)
        blocks = [select_tokens(output, rows + 1) for output in lower] + [last]  # + 1: the CLS token comes first
        return average(blocks, self.config.teacher.block_norm, self.config.teacher.mean_norm)

    def predictions(self, patches: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
        """float32 [B, M, H]: the regression head on the student's final norm at the rows."""
        (last,) = self.student(patches, mask, rows)
        return self.student.head(self.student.norm(last)).float()

    def train(self, mode: bool = True) -> Data2Vec:
        """As nn.Module.train; the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def tracked(self) -> list[tuple[str, nn.Parameter, nn.Parameter]]:
        """(name, student's parameter, teacher's parameter) of all that is averaged: in vision the whole model (BV)."""
        teacher = dict(self.teacher.named_parameters())
        return [(name, parameter, teacher[name]) for name, parameter in self.student.named_parameters()]

    @torch.no_grad()
    def features(self, images: Tensor, weights: Weights = "teacher") -> Tensor:
        """uint8 [N, 3, S, S] -> float32 [N, H]: the target representation (all K blocks) averaged over the patches."""
        network = self.teacher if weights == "teacher" else self.student
        was_training = network.training
        network.eval()
        features = torch.cat([self._features(network, chunk) for chunk in images.split(FEATURE_BATCH)])
        network.train(was_training)
        return features

    def _features(self, network: nn.Module, images: Tensor) -> Tensor:
        color = torch.eye(3, 4, device=images.device).expand(len(images), 3, 4)
        nothing = torch.empty(len(images), 0, device=images.device)
        patches = self.patches(MaskedBatch("vision", images, color, mask=nothing, sample_ids=nothing))
        blocks = [output[:, 1:] for output in network(patches, top=self.config.teacher.layers)]
        return average(blocks, self.config.teacher.block_norm, "none").mean(1)


def masked_rows(mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """mask bool [B, T] -> positions int64 [B, M] of the masked patches, and weight float32 [B, M].

    M = min(count, T) whatever the mask holds, so that shapes are static; padding rows have weight 0.
    """
    assert mask.device.type != "cpu" or int(mask.sum(1).max()) <= count, "more patches masked than vision.mask.patches"
    order = mask.byte().argsort(dim=1, descending=True, stable=True)[:, :count]
    return order, mask.gather(1, order).float()


def average(blocks: list[Tensor], block_norm: Normalisation, mean_norm: Normalisation) -> Tensor:
    """Block outputs [..., H] -> their normalised average, float32 [..., H]."""
    total = torch.zeros_like(blocks[0], dtype=torch.float32)
    for block in blocks:
        total += _normalise(block.float(), block_norm)
    return _normalise(total / len(blocks), mean_norm)


def _normalise(x: Tensor, kind: Normalisation) -> Tensor:
    """LayerNorm over channels without affine, eps 1e-5 (data2vec.md section 1), or nothing."""
    return F.layer_norm(x, x.shape[-1:]) if kind == "layer" else x


def regression_loss(predictions: Tensor, targets: Tensor, weight: Tensor, beta: float) -> Tensor:
    """Smooth-L1 (beta 0: squared error, without 1/2) of [B, M, H], mean over H, weighted sum over B and M."""
    if beta:
        elements = F.smooth_l1_loss(predictions, targets, reduction="none", beta=beta)
    else:
        elements = F.mse_loss(predictions, targets, reduction="none")
    return (elements.mean(-1) * weight).sum()


def parameter_groups(model: Data2Vec, config: OptimizerConfig) -> list[dict]:
    """The student's parameters as optimizer groups, with and without weight decay; all are averaged by the teacher.

    `matrices` excludes one-dimensional parameters, biases and the CLS vector; the mask vector and the relative
    position table are decayed (data2vec.md 2.6, BV).
    """
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in model.student.named_parameters():
        exempt = parameter.dim() <= 1 or name.endswith("bias") or name == "tokens.cls"
        (spared if exempt and config.decay_rule == "matrices" else decayed).append(parameter)
    groups = [(decayed, config.weight_decay), (spared, 0.0)]
    return [{"params": params, "weight_decay": decay, "teacher": True} for params, decay in groups if params]
