"""data2vec 2.0: M masks of each sample share one pass of the teacher, and the student sees visible tokens alone.

Shapes: B samples, T tokens, H width, M masks of each sample, N = B M masks in all; R hidden and V visible tokens of a
mask. Source: fairseq examples/data2vec (models/data2vec2.py); Baevski et al. 2022 (arXiv 2212.07525).

Not followed: the published teacher of text reads embeddings with the student's active dropout; here it reads them
without. The published pre-norm block lacks its residual; here it has it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from configs.schema import PretrainConfig
from data_shards.batch import MaskedBatch, SampleBatch
from models.data2vec import Data2Vec, Weights, at_tokens, spread, token_losses
from models.flops import flops
from models.layers.masked import Masked, masked_of, of_each_mask, real_tokens
from models.objective import ObjectiveOutput


class Data2Vec2(Data2Vec):
    """Student and teacher of one modality, or of several that take turns; the decoder is the student's alone."""

    def forward(self, batch: SampleBatch, count: Tensor, shared_seed: int = 0) -> ObjectiveOutput:
        """Compute the loss of a micro-batch, and the moments of its targets and predictions.

        batch: a `MaskedBatch`. count: scalar, number of hidden tokens in all masks of the step, over all ranks.
        shared_seed: see `Objective.forward`. Statistics: see `Data2Vec.forward`.
        """
        assert isinstance(batch, MaskedBatch)
        options, masked = self.configs[batch.modality].loss, masked_of(batch)
        student_input, teacher_input = self.embed(batch)
        whole = self.all_targets(batch, teacher_input)
        targets = of_each_mask(whole, masked.hidden)
        outputs = self.outputs(batch, student_input, masked, shared_seed)
        predictions = self.hidden_predictions(batch, outputs, masked)
        losses = token_losses(predictions, targets, options) * masked.weight
        loss = losses.sum() / count
        if options.cls and self.network(batch.modality, "student").prefix:
            loss = loss + self._cls_loss(batch, outputs, whole) / count
        errors = at_tokens(losses, masked.hidden, batch)
        return ObjectiveOutput(loss, spread(targets, predictions, masked.weight), errors)

    def outputs(self, batch: MaskedBatch, features: Tensor, masked: Masked, shared_seed: int = 0) -> Tensor:
        """Return the student's outputs, [N, prefix + V, H]: its last block for each mask, after the final norm.

        features: the student's, from `embed`.
        """
        network = self.network(batch.modality, "student")
        (last,) = network.visible(features, masked, layer_seed=shared_seed)
        return last if network.norm is None else network.norm(last)

    def hidden_predictions(self, batch: MaskedBatch, outputs: Tensor, masked: Masked) -> Tensor:
        """Return the decoder's predictions at the hidden tokens, float32 [N, R, H]. outputs: from `outputs`."""
        assert batch.noise_keys is not None
        keys = batch.noise_keys.flatten()
        return self.network(batch.modality, "student").predict_hidden(outputs, masked, keys).float()

    def _cls_loss(self, batch: MaskedBatch, outputs: Tensor, whole: Tensor) -> Tensor:
        """Return the loss of CLS against the mean of the targets, times the hidden tokens of a mask.

        All masks of images hide one number of tokens. So, divided by the count of the step, it is `loss.cls` times the
        mean over the step's masks.
        """
        options, masks = self.configs[batch.modality].loss, batch.masks.shape[1]
        predicted, target = outputs[:, :1].float(), whole.mean(1, keepdim=True).repeat_interleave(masks, 0)
        each = torch.full(predicted.shape[:2], options.cls * (batch.most_masked or 0), device=predicted.device)
        return (token_losses(predicted, target, options) * each).sum()

    def watched(self, batch: MaskedBatch, weights: Weights) -> list[tuple[nn.Module, Tensor]]:
        """Return the watched modules: see `Data2Vec.watched`.

        The student's blocks have visible tokens alone, and its decoder counts at the hidden ones of a single mask.
        """
        modules = super().watched(batch, weights)
        if weights == "teacher":
            return modules
        masked, head = masked_of(batch.with_one_mask()), self.network(batch.modality, "student").head
        lengths = masked.seen.sum(1)
        seen, (first, *blocks) = real_tokens(lengths, masked.visible.shape[1]), modules
        decoder = [(layer, masked.mask) for layer in head.get_submodule("layers").children()]
        return [first, *((block, seen) for block, _ in blocks), *decoder]

    def one_pass(self, batch: MaskedBatch, weights: Weights) -> None:
        """Run one network as the objective does, the student with one mask of each sample."""
        if weights == "teacher":
            return super().one_pass(batch, weights)
        network, single = self.network(batch.modality, weights), batch.with_one_mask()
        masked, (student_input, _) = masked_of(single), network.student_teacher_inputs(single)
        self.hidden_predictions(single, self.outputs(single, network.embed(student_input), masked), masked)

    def flops(self, batch: SampleBatch) -> float:
        """Return the operations of student and teacher (see `models.flops`)."""
        assert isinstance(batch, MaskedBatch)
        masked = batch.masks[:, 0].sum(1).tolist()
        return flops(self.configs[batch.modality], batch.lengths.tolist(), masked)


def make_objective(config: PretrainConfig) -> Data2Vec:
    """Return the objective that the configuration names. Raises ValueError as `Data2Vec` does."""
    return Data2Vec2(config) if config.objective == "v2" else Data2Vec(config)
