"""A labelled stream under the launcher: a small classifier without a teacher, stepped by the engine of every run.

labelled_worker.py LOG DIE_AT key=value ...     appends each step's loss, samples and labels to LOG.RANK; DIE_AT is
                                                the step before which every rank is killed, 0 for none
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.checks.run import check
from configs.compose import compose_pretrain
from configs.schema import PretrainConfig
from data_shards.batch import LabelledBatch, SampleBatch
from models.objective import Objective, ObjectiveOutput
from pretrain.assemble import assemble
from pretrain.engine import distributed


class Classifier(Objective):
    """A linear map from the mean colours of a grid to classes."""

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        torch.manual_seed(config.train.seed)
        self.linear = nn.Linear(3 * 4 * 4, 2)

    def forward(self, batch: SampleBatch, count: Tensor, shared_seed: int = 0) -> ObjectiveOutput:
        assert isinstance(batch, LabelledBatch) and batch.labels is not None
        features = F.adaptive_avg_pool2d(batch.inputs.float() / 255, 4).flatten(1).to(self.linear.weight.dtype)
        logits = self.linear(features).float()
        loss = F.cross_entropy(logits, batch.labels, reduction="sum") / count
        return ObjectiveOutput(loss, {"correct": (logits.argmax(1) == batch.labels).double().sum()})

    def trained(self) -> Iterable[tuple[str, nn.Parameter]]:
        return self.named_parameters()

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters()), "weight_decay": 0.0, "teacher": False, "modality": None}]

    def flops(self, batch: SampleBatch) -> float:
        return 0.0


def main(log: Path, die_at: int, overrides: list[str]) -> None:
    """Train until `train.steps`, saving every `checkpoint.every` steps."""
    device = distributed.start()
    config = compose_pretrain(overrides)
    check(config, distributed.world())
    run = assemble(config, device, objective=Classifier, labels="cls")
    assert not run.model.tracked()
    file = log.with_name(f"{log.name}.{distributed.rank()}").open("a")
    steps = run.loader.steps(run.engine.steps)
    while run.engine.steps < config.train.steps:
        if run.engine.steps + 1 == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        batches = next(steps)
        assert all(isinstance(batch, LabelledBatch) for batch in batches)
        result = run.engine.step(batches)
        replaced = torch.tensor(run.loader.outcome.replaced.sum())
        run.count_samples(int(result.samples), int(distributed.all_sum(replaced)))
        row = {
            "step": run.engine.steps,
            "loss": result.loss,
            "correct": result.statistics["correct"].item(),
            "samples": [id for batch in batches for id in batch.sample_ids.tolist()],
            "labels": [label for batch in batches for label in batch.labels.tolist()],
            "bad": run.loader.bad.replaced,
        }
        print(json.dumps(row), file=file, flush=True)
        if run.engine.steps % config.checkpoint.every == 0 or run.engine.steps == config.train.steps:
            run.save(wait=True)
    run.loader.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
