"""Parts of a run, made from its configuration and restored from a checkpoint if there is one; no step is taken.

The loop uses it, and so do others that need a run's parts: benchmarks, fine-tuning, the repetition of a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from configs.output.stages import stage
from configs.schema import PretrainConfig
from data_shards.loading.labels import LabelMember
from data_shards.loading.loader import Loader, open_loader
from models.data2vec import Data2Vec
from models.data2vec2 import make_objective
from models.objective import Objective
from pretrain.checkpoints.reading import RunState
from pretrain.checkpoints.saving import Checkpoints
from pretrain.engine import distributed
from pretrain.engine.engine import Engine
from pretrain.health.collapse import CollapseGuard
from pretrain.health.guard import Guard
from pretrain.health.rank_agreement import check_ranks_agree, run_facts, weight_facts
from pretrain.run_directory import refuse_lost
from pretrain.start_weights import Start, load_start


@dataclass
class Assembly:
    """The parts of a run on this rank."""

    config: PretrainConfig
    model: Objective
    engine: Engine
    loader: Loader
    checkpoints: Checkpoints
    guard: Guard
    collapse: CollapseGuard
    start: str
    """A line for the log: random weights, `init`, or the checkpoint that the run goes on from."""
    resumed: bool = False
    """True if the run goes on from a checkpoint."""

    def load(self, checkpoint: Path) -> None:
        """Restore weights, optimizer, teacher, data position and guards from a checkpoint. Collective.

        Raises ValueError if the checkpoint is of another model, or if the data would come in another order.
        """
        state = self.checkpoints.load(self.engine, checkpoint)
        self.loader.load_state_dict(state.data)
        self.loader.bad.restore(*state.bad_samples, state.bad_streak, state.bad_kinds)
        self.guard.load_state_dict(state.guard["steps"])
        self.collapse.load_state_dict(state.guard["collapse"])
        self.start, self.resumed = f"resuming from {checkpoint} (step {state.steps})", True

    def count_samples(self, read: int, replaced: int) -> None:
        """Count the samples of the step just taken, for `data.max_bad_*`. Collective.

        read, replaced: the step's samples and the replacements among them, over all ranks. Raises TooManyBadSamples, on
        every rank.
        """
        self.loader.bad.add(read, distributed.gather(self.loader.outcome) if replaced else [])

    def state(self) -> RunState:
        """Return data position, bad-sample counts and guards; `Checkpoints.save` adds the rest."""
        bad, guards = self.loader.bad, {"steps": self.guard.state_dict(), "collapse": self.collapse.state_dict()}
        data = self.loader.state_dict(self.engine.steps)
        return RunState(data, (bad.replaced, bad.read), guards, bad.streak, dict(bad.kinds))

    def save(self, wait: bool) -> None:
        """Start a checkpoint; with `wait`, return once it is complete. Collective.

        A failure is in `checkpoints.failure`.
        """
        self.checkpoints.save(self.engine, self.state(), wait)


def assemble(
    config: PretrainConfig,
    device: torch.device,
    resume: bool = True,
    objective: Callable[[PretrainConfig], Objective] = make_objective,
    labels: LabelMember | None = None,
) -> Assembly:
    """Make model, engine, loader, checkpoints and guards of a run. Every rank calls it.

    resume: go on from the newest good checkpoint of `config.run.dir`, if there is any. labels: give the objective
    labelled batches. Raises ValueError if configuration, data and checkpoint do not fit, or if the ranks do not agree
    on them; OSError if not even one checkpoint fits on the disk.
    """
    shown = config.log.progress and distributed.rank() == 0
    with stage("reading the index", shown):
        loader = open_loader(config, distributed.rank(), distributed.world(), labels)
        check_ranks_agree(run_facts(config, loader.indexes))
    checkpoints = Checkpoints(Path(config.run.dir), config.checkpoint)
    with stage("checking the newest checkpoint", shown):
        newest = checkpoints.newest_good() if resume else None
        if resume and not newest:
            distributed.on_first(lambda: refuse_lost(config))
    with stage("building the model", shown):
        model = objective(config)
    start = Start("student and teacher start at random")
    if config.init and not newest:
        assert isinstance(model, Data2Vec), "init= is data2vec's"
        start = load_start(model, config.init)
        teacher = {f"teacher.{name}": values for name, values in (start.teacher or {}).items()}
        check_ranks_agree(weight_facts(model.student.state_dict() | teacher))
    with stage("handing the model to DeepSpeed", shown):
        engine = Engine(model, config, device)
        if start.teacher:
            engine.partitions.load_teacher(start.teacher)
        checkpoints.prepare(engine)
    guards = Guard(config.guard), CollapseGuard(config.guard)
    run = Assembly(config, model, engine, loader, checkpoints, *guards, start.line)
    if newest:
        run.load(newest)
    return run
