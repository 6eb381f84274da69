"""The run: set up or resume, step until `train.steps`, save, probe."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch

from configs.schema import PretrainConfig
from data_shards.loader import MaskedBatchLoader, MixtureLoader, open_loader
from models.data2vec import Data2Vec
from pretrain import distributed
from pretrain.checkpoint import Checkpoints
from pretrain.engine import Engine
from pretrain.guard import Guard
from pretrain.metrics import ProbeResult, read_rows
from pretrain.preempt import Preemption
from pretrain.probe import probes, table
from pretrain.report import Report
from pretrain.run_directory import keep_tokenizer, write_config
from pretrain.start_weights import load_student


def pretrain(config: PretrainConfig, device: torch.device) -> bool:
    """Run until `config.train.steps`, or until a notice to stop, which gives False; every rank calls it.

    Resumes from the newest good checkpoint of `config.run.dir`. Raises ValueError where the configuration and the
    data or the checkpoint do not fit, RunStopped where the run had to stop by itself.
    """
    folder = Path(config.run.dir)
    preemption = Preemption()
    checkpoints = Checkpoints(folder, config.checkpoint.keep)
    resume = checkpoints.newest_good()
    model = Data2Vec(config)
    start = load_student(model, config.init) if config.init and not resume else "student and teacher start at random"
    engine = Engine(model, config, device)
    loader = open_loader(config, distributed.rank(), distributed.world())
    if resume:
        state = checkpoints.load(engine, resume)
        loader.load_state_dict(state.data)
        if distributed.rank() == 0:  # the counts are of all ranks
            loader.restore_bad_counts(*state.bad_samples)
        start = f"resuming from {resume} (step {state.steps})"
    changes, text = "", ""
    if distributed.rank() == 0:
        keep_tokenizer(folder, config)
        changes, text = write_config(folder, config, distributed.world())
    if changes and resume:
        start += f"; changed since the last start: {changes}"
    report = Report(folder, config, engine, text)
    try:
        report.say(f"{engine.description}; {loader.description}\n{start}")
        if engine.steps == 0:
            _probe(model, config, report)
        stopped = _train(config, engine, loader, checkpoints, report, preemption)
        if not stopped:
            results = _probe(model, config, report)
            if distributed.rank() == 0:
                for result in results:
                    report.say(_summary(config, engine.steps, result))
        return not stopped
    finally:
        loader.close()
        report.close()


def _train(
    config: PretrainConfig,
    engine: Engine,
    loader: MaskedBatchLoader | MixtureLoader,
    checkpoints: Checkpoints,
    report: Report,
    preemption: Preemption,
) -> bool:
    """Step until `train.steps`, saving on the way; True where a notice to stop ended it."""
    guard = Guard(config.guard)
    steps = loader.steps(engine.steps)
    while engine.steps < config.train.steps:
        begin = time.perf_counter()
        micro_batches = next(steps)
        result = engine.step(micro_batches)
        stop = preemption.agreed(engine.device)  # which waits for the device, so that the clock is right
        seconds = time.perf_counter() - begin
        report.picture(micro_batches[0])
        report.step(result, seconds, loader)
        guard.check(engine.steps, result.applied)
        due = config.checkpoint.every and engine.steps % config.checkpoint.every == 0
        if due or stop or engine.steps >= config.train.steps:
            bad = torch.tensor(loader.bad_counts, device=engine.device)
            replaced, read = distributed.all_sum(bad).tolist()
            place = checkpoints.save(engine, loader.state_dict(engine.steps), (replaced, read))
        if stop:
            report.say(f"notice to stop: saved {place}; the same command goes on from there")
            return True
    return False


def _probe(model: Data2Vec, config: PretrainConfig, report: Report) -> list[ProbeResult]:
    """Probe the teacher on each modality for which the configuration names labelled samples."""
    results = probes(model, config)
    for result in results:
        report.probe(result)
    return results


def _summary(config: PretrainConfig, steps: int, trained: ProbeResult) -> str:
    """The probe's table, with the row of the network that this run started from beside it."""
    metrics = read_rows(Path(config.run.dir) / "metrics.jsonl")
    rows = [row for row in metrics if row["step"] == 0 and row.get("modality") == trained.modality]
    results = {f"teacher at step {steps}": trained}
    if rows:
        first = replace(trained, **{key: rows[-1][key] for key in ("knn_top1", "linear_top1")})
        results = {"network of init" if config.init else "untrained network": first, **results}
    return table(results)
