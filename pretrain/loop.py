"""The run: step until `train.steps`, save, probe; skip, locate or roll back steps that are bad."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from configs.output.secrets import masked
from configs.output.stages import stage
from configs.resolve.deepspeed import NEVER
from configs.schema import PretrainConfig
from data_shards.batch import MaskedBatch, SampleBatch
from data_shards.loading.bad_sample_count import TooManyBadSamples
from data_shards.order.mixture import mixture_of
from models.data2vec import Data2Vec
from pretrain.assemble import Assembly, assemble
from pretrain.describing.table import run_table, run_warnings
from pretrain.engine import distributed
from pretrain.engine.engine import StepResult
from pretrain.evaluation.probing import probes, table
from pretrain.health.collapse import ModuleHealth, measure
from pretrain.health.guard import Finding, RunStopped
from pretrain.health.non_finite import first_not_finite
from pretrain.health.preempt import Preemption
from pretrain.health.watchdog import Watchdog
from pretrain.reporting.console import ending, next_commands
from pretrain.reporting.metrics import ProbeResult
from pretrain.reporting.metrics_file import keep_rows, read_rows
from pretrain.reporting.report import Report
from pretrain.run_directory import keep_tokenizer, write_config

log = logging.getLogger(__name__)

BAD_STEPS = "bad_steps.jsonl"


def pretrain(config: PretrainConfig, device: torch.device) -> bool:
    """Run until `config.train.steps`, or until a notice to stop. Every rank calls it.

    Returns False after a notice. Resumes from the newest good checkpoint of `config.run.dir`. Raises ValueError if the
    configuration does not fit the data or the checkpoint, RunStopped if the run had to stop by itself, OSError if its
    last checkpoint cannot be written.
    """
    preemption, began = Preemption(Path(config.run.dir)), time.monotonic()
    watchdog = Watchdog(Path(config.run.dir), config.watchdog, distributed.rank())
    shown = config.log.progress and distributed.rank() == 0
    with watchdog.watch("start", config.watchdog.start_s, 0), stage("preparing model and data", shown):
        run = assemble(config, device)
        start, text = _record_config(run)
        report = Report(Path(config.run.dir), config, run.engine, text)
    try:
        report.say("\n".join([*run_table(config, run.engine, run.loader), start]))
        for line in run_warnings(config, run.engine, run.loader) if distributed.rank() == 0 else ():
            log.warning("%s", line)
        if run.engine.steps == 0:
            _probe(run, report, watchdog)
        with report.steps():
            finished = Training(run, report, preemption, watchdog).run()
        if finished:
            results = _probe(run, report, watchdog)
            if distributed.rank() == 0:
                report.say(_end(run, results, time.monotonic() - began))
        return finished
    finally:
        run.loader.close()
        report.close()


class Training:
    """The steps of a run, and every decision at their boundaries, the same on every rank."""

    def __init__(self, run: Assembly, report: Report, preemption: Preemption, watchdog: Watchdog) -> None:
        assert isinstance(run.model, Data2Vec)
        self._run, self._config, self._model = run, run.config, run.model
        self._engine, self._loader, self._checkpoints = run.engine, run.loader, run.checkpoints
        self._guard, self._collapse = run.guard, run.collapse
        self._report, self._preemption, self._watchdog = report, preemption, watchdog
        self._folder = Path(run.config.run.dir)
        self._mixture = mixture_of(run.config)
        if distributed.rank() == 0:
            keep_rows(self._folder / BAD_STEPS, run.engine.steps)

    def run(self) -> bool:
        """Step until `train.steps`, and save on the way. Returns False if a notice to stop ended it."""
        steps = self._loader.steps(self._engine.steps)
        try:
            while self._engine.steps < self._config.train.steps:
                if self._step(steps):
                    self._stop()
                    return False
        except (RunStopped, TooManyBadSamples):  # on every rank
            self._checkpoints.finish()
            raise
        return True

    def _step(self, steps: Iterator[list[SampleBatch]]) -> bool:
        """Take one step, report it, and act on bad steps and collapse. Returns True if a notice asks to stop."""
        engine, watchdog, seconds = self._engine, self._config.watchdog, time.perf_counter
        begin = seconds()
        with self._watchdog.watch("data", watchdog.data_s, engine.steps):
            micro_batches = next(steps)
        with self._watchdog.watch("step", watchdog.step_s, engine.steps):
            result = engine.step(micro_batches, self._guard.judge)
            # One sum over ranks collects notices, written checkpoints and bad samples. `took` is right, because the sum
            # waits for the device.
            replaced = int(self._loader.outcome.replaced.sum())
            flags = torch.tensor([self._preemption.noticed, self._checkpoints.written, replaced], dtype=torch.int64)
            noticed, written, replaced = distributed.all_sum(flags.to(engine.device)).tolist()
            took = seconds() - begin
            self._checkpoints.settle(written)
            self._run.count_samples(int(result.samples), replaced)
            finding = self._guard.check(engine.steps, result)
            collapsed = self._report_step(result, micro_batches[0], took)
            if finding:
                self._handle_bad_step(finding, result, micro_batches)
            self._act_on_collapse(collapsed)
        every, last = self._config.checkpoint.every, engine.steps >= self._config.train.steps
        if last or (not noticed and every and engine.steps % every == 0):
            self._save(wait=last)
        return bool(noticed) and not last

    def _report_step(self, result: StepResult, batch: SampleBatch, took: float) -> list[str]:
        """Report the step. Returns a line per collapsed module, and one for targets or predictions that collapsed."""
        step, watched, lines = self._engine.steps, self._config.guard.collapse != "off", []
        self._report.picture(batch, result.errors)
        modules = self._measure(batch) if watched else None
        row = self._report.step(result, took, self._loader, self._guard, modules)
        if modules:
            lines += self._collapse.check_modules(step, modules, batch.modality if self._config.is_mixture else "")
        if row and watched:
            spread = row.target_std, row.prediction_std
            lines += self._collapse.check_spread(step, self._engine.applied, result.modality, *spread)
        return lines

    def _measure(self, batch: SampleBatch) -> dict[str, ModuleHealth] | None:
        """Measure how much the modules' outputs vary, every `guard.collapse_every` steps of each modality."""
        if not self._mixture.is_last_in_interval(self._engine.steps, self._config.guard.collapse_every, NEVER):
            return None
        assert isinstance(batch, MaskedBatch)
        return measure(self._model, batch, self._engine.device)

    def _handle_bad_step(self, finding: Finding, result: StepResult, micro_batches: list[SampleBatch]) -> None:
        """Warn of a bad step, log it with its samples, and roll back or stop the run if that is due."""
        where = self._locate_non_finite(finding, result, micro_batches)
        if distributed.rank() == 0:
            text = finding.text + (f"; first there: {where}" if where else "")
            done = {"skipped": "nothing moved", "applied": "it was applied", "rollback": "going back"}[finding.action]
            log.warning("step %d: %s: %s", finding.step, text, done)
        self._log_bad_step(finding, result, where, micro_batches)
        if finding.action == "rollback":
            self._roll_back(finding)
        self._guard.stop_if_too_many(finding)

    def _locate_non_finite(self, finding: Finding, result: StepResult, micro_batches: list[SampleBatch]) -> str | None:
        """Name the module in which non-finite values began, at the first of a row of non-finite steps.

        Returns None for other steps, and while fp16's loss scale is still adjusting.
        """
        scaling = self._engine.loss_scale is not None and result.loss == result.loss
        if finding.kind != "not finite" or scaling or not self._guard.first_in_a_row(finding):
            return None
        return first_not_finite(self._engine, micro_batches, finding.step - 1)

    def _log_bad_step(
        self, finding: Finding, result: StepResult, where: str | None, micro_batches: list[SampleBatch]
    ) -> None:
        """Append the step and its samples to RUN/bad_steps.jsonl; a full disk does not stop the run."""
        try:
            mine = [name for batch in micro_batches for name in self._loader.names_of(batch)]
        except (OSError, ValueError) as error:
            mine = [f"not readable: {error}"]
        samples = [name for part in distributed.gather(mine) for name in part]
        if distributed.rank():
            return
        row: dict[str, Any] = {**asdict(finding), "loss": str(result.loss), "grad_norm": str(result.grad_norm)}
        try:
            with (self._folder / BAD_STEPS).open("a", encoding="utf-8") as file:
                file.write(masked(json.dumps({**row, "where": where, "samples": samples})) + "\n")
        except OSError as error:
            log.warning("%s cannot be written: %s", self._folder / BAD_STEPS, error)

    def _roll_back(self, finding: Finding) -> None:
        """Go back to the last checkpoint.

        Weights, optimizer and schedules go back; step count and data position do not. The steps since the checkpoint
        count as taken and not applied.
        """
        engine, samples = self._engine, self._engine.samples
        self._checkpoints.finish()
        place = self._checkpoints.newest_good()
        if place is None:
            if distributed.rank() == 0:
                log.warning("step %d: there is no checkpoint to go back to yet: the step is left out", finding.step)
            return
        state = self._checkpoints.load(engine, place)
        lost = finding.step - engine.steps
        engine.skip_to(finding.step, samples)
        self._guard.rolled_back(state.steps, state.guard["steps"])
        if distributed.rank() == 0:
            log.warning("back at %s: its weights go on at step %d; %d steps are lost", place, finding.step + 1, lost)

    def _act_on_collapse(self, lines: list[str]) -> None:
        """Warn of collapsed modules, or raise RunStopped if `guard.collapse` is stop."""
        if not lines:
            return
        if self._config.guard.collapse == "stop":
            raise RunStopped(
                "\n".join(lines) + "\nThe representations carry nothing any more. Go back to a checkpoint before (move "
                "later ones away) with a lower optimizer.lr, a longer schedule.warmup or a higher teacher.decay; "
                "guard.collapse=warn goes on all the same"
            )
        if distributed.rank() == 0:
            for line in lines:
                log.warning("%s", line)

    def _save(self, wait: bool) -> None:
        """Start a checkpoint; with `wait`, return once it is complete. Raises OSError if that fails."""
        shown = self._config.log.progress and distributed.rank() == 0
        watched = self._watchdog.watch("save", self._config.watchdog.save_s, self._engine.steps)
        with watched, stage("saving a checkpoint", shown):
            self._run.save(wait)
        if wait and self._checkpoints.failure:
            raise OSError(
                f"{self._checkpoints.failure}. Make room, then start again: the run goes on from its last one"
            )

    def _stop(self) -> None:
        """Save because of a notice to stop, and acknowledge the notice."""
        self._save(wait=True)
        self._preemption.acknowledge()
        place = self._checkpoints.newest
        self._report.say(f"{self._preemption.reason}: saved {place}; the same command goes on from there")


def _record_config(run: Assembly) -> tuple[str, str]:
    """Write the configuration into the run directory; return the log's line about the start, and the text written."""
    if distributed.rank():
        return run.start, ""
    folder = Path(run.config.run.dir)
    keep_tokenizer(folder, run.config)
    changes, text = write_config(folder, run.config, distributed.world())
    changed = f"; changed since the last start: {changes}" if changes and run.resumed else ""
    return run.start + changed, text


def _probe(run: Assembly, report: Report, watchdog: Watchdog) -> list[ProbeResult]:
    """Probe the teacher on each modality for which the configuration names labelled samples."""
    assert isinstance(run.model, Data2Vec)
    with watchdog.watch("probe", run.config.watchdog.probe_s, run.engine.steps):
        results = probes(run.model, run.config, alive=watchdog.restart)
    for result in results:
        report.probe(result)
    return results


def _end(run: Assembly, results: list[ProbeResult], seconds: float) -> str:
    """Return the lines that end a complete run: its checkpoint, the probes before and after, the next commands."""
    config, engine = run.config, run.engine
    done = ending(engine.steps, sum(engine.samples.values()), seconds, str(run.checkpoints.newest))
    tables = [_summary(config, engine.steps, result) for result in results]
    return "\n".join([done, *tables, "next:", *(f"  {line}" for line in next_commands(config, bool(results)))])


def _summary(config: PretrainConfig, steps: int, trained: ProbeResult) -> str:
    """Return the probe's table, with a row for the network that this run started from."""
    metrics = read_rows(Path(config.run.dir) / "metrics.jsonl")
    rows = [row for row in metrics if row["step"] == 0 and row.get("modality") == trained.modality]
    results = {f"teacher at step {steps}": trained}
    if rows:
        first = replace(trained, **{key: rows[-1][key] for key in ("knn_top1", "linear_top1")})
        results = {"network of init" if config.init else "untrained network": first, **results}
    return table(results)
