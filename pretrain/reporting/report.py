"""Report of a run: metrics.jsonl, TensorBoard and the progress bar, written by rank 0 from sums over all ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
import yaml
from torch import Tensor

from configs.keys import flat
from configs.output.lines import say
from configs.resolve.deepspeed import NEVER
from configs.schema import PretrainConfig
from configs.schema_modalities import Modality
from data_shards.batch import MaskedBatch, SampleBatch
from data_shards.loading.loader import Loader
from data_shards.order.mixture import mixture_of
from data_shards.progress import Progress, steps_progress
from data_shards.shards.index_file import TOKENIZER_NAME
from data_shards.text.tokenizer import Tokenizer, load_tokenizer
from models.statistics import std_from_moments
from pretrain.engine import distributed
from pretrain.engine.engine import Engine, StepResult
from pretrain.health.collapse import ModuleHealth
from pretrain.health.guard import Guard
from pretrain.reporting import speed
from pretrain.reporting.console import Console, FirstSteps
from pretrain.reporting.metrics import MetricsRow, ProbeResult
from pretrain.reporting.metrics_file import MetricsFile
from pretrain.reporting.mirror import Mirror
from pretrain.reporting.tensorboard import Board, probe_figures, row_figures


class Report:
    """Writer of a run's figures. Every rank calls every method except `say`; only rank 0 opens files."""

    def __init__(self, folder: Path, config: PretrainConfig, engine: Engine, config_text: str) -> None:
        self._config, self._engine = config, engine
        peak = speed.peak(engine.device, engine.precision, config.log.peak_tflops)
        self._meters = {modality: speed.Meter(peak) for modality in config.modalities}
        self._mixture = mixture_of(config)
        self._pictured: set[Modality] = set(config.modalities if engine.steps else ())
        self._modules: dict[Modality, dict[str, ModuleHealth]] = {}
        self._progress: Progress | None = None
        self._speed, self._first_steps = "", FirstSteps()
        self._console: Console | None = None
        self._writes = distributed.rank() == 0
        if self._writes:
            self._metrics = MetricsFile(folder / "metrics.jsonl", engine.steps)
            self._board = Board(folder / "tensorboard", engine.steps, config.is_mixture, _tokenizer(folder))
            keys = flat(yaml.safe_load(config_text)) if config.log.wandb else {}
            self._mirror = Mirror(folder, keys) if config.log.wandb else None
            self._board.write_config(engine.steps, config, config_text)

    def step(
        self,
        result: StepResult,
        seconds: float,
        loader: Loader,
        guard: Guard,
        modules: dict[str, ModuleHealth] | None = None,
    ) -> MetricsRow | None:
        """Count a step; return the row that it ends, on every rank, or None if it ends none.

        A row is written every `log.every` steps for each modality in them, and at the last step. `loader` must not have
        given the next step yet.

        modules: measurements of this step, by module; the next row of the step's modality holds them.
        """
        samples, tokens = int(result.samples), int(result.tokens)
        work = speed.Work(seconds, loader.data_wait, samples, tokens, result.flops, loader.cost)
        self._meters[result.modality].add(work)
        if modules:
            self._modules[result.modality] = modules
        step, row = self._engine.steps, None
        if self._mixture.is_last_in_interval(step, self._config.log.every, self._config.train.steps):
            row = self._row(result, loader, guard)
        if self._writes and row:
            self._metrics.write(row)
            self._board.write(row)
            if self._mirror:
                self._mirror.write(step, row_figures(row, self._config.is_mixture))
            self._speed = f", {row.samples_per_s:.1f} samples/s"
        if self._progress:
            self._show(row, seconds)
            self._progress.update(step, f"loss {result.loss:.4f}{self._speed}")
        return row

    @contextmanager
    def steps(self) -> Iterator[None]:
        """Show the steps that are taken within this context, at each of them."""
        if self._writes:
            self._progress = steps_progress(self._engine.steps, self._config.train.steps, self._config.log.progress)
            self._console = Console(self._config, self._engine.steps) if self._config.log.progress else None
        try:
            yield
        finally:
            self._end_progress()

    def picture(self, batch: SampleBatch, errors: Tensor | None) -> None:
        """Write a picture of the first micro-batch of the step just taken, with its errors, if one is due.

        One is due at the first step of each modality, and every `log.pictures_every` steps.
        """
        every, step, modality = self._config.log.pictures_every, self._engine.steps, batch.modality
        if not (self._writes and every and isinstance(batch, MaskedBatch)):
            return
        if modality not in self._pictured or self._mixture.is_last_in_interval(step, every, NEVER):
            self._pictured.add(modality)
            self._board.write_picture(step, batch, errors)

    def probe(self, result: ProbeResult) -> None:
        """Write a probe's row."""
        if self._writes:
            self._metrics.write_probe(self._engine.steps, result)
            self._board.write_probe(self._engine.steps, result)
            if self._mirror:
                self._mirror.write(self._engine.steps, probe_figures(result, self._config.is_mixture))

    def say(self, text: str) -> None:
        """Print a line on rank 0, beside the progress bar if there is one."""
        if self._progress:
            self._progress.say(text)
        elif self._writes:
            say(text)

    def _show(self, row: MetricsRow | None, seconds: float) -> None:
        """Print the row on the screen, and once how long the steps to come will take."""
        if not (self._progress and self._console):
            return
        lines = [*self._console.lines(row)] if row else []
        expected = self._first_steps.expected(seconds, self._config.train.steps - self._engine.steps)
        for line in [*lines, *([expected] if expected else [])]:
            self._progress.say(line)
            self._progress.postpone()

    def close(self) -> None:
        """Flush and close the files. A second call does nothing."""
        self._end_progress()
        if self._writes:
            self._metrics.close()
            self._board.close()
            if self._mirror:
                self._mirror.close()

    def _end_progress(self) -> None:
        if self._progress:
            self._progress.close()
        self._progress = None

    def _row(self, result: StepResult, loader: Loader, guard: Guard) -> MetricsRow:
        sums = distributed.all_sum(torch.cat([result.statistics["target"], result.statistics["prediction"]]))
        target_std, prediction_std = (std_from_moments(moments).item() for moments in sums.chunk(2))
        engine, modules = self._engine, self._modules.pop(result.modality, {})
        return MetricsRow(
            step=engine.steps,
            epoch=loader.epoch_of(engine.steps - 1),
            samples=engine.samples[result.modality],
            modality=result.modality,
            loss=result.loss,
            lr=result.lr,
            teacher_decay=result.teacher_decay,
            grad_norm=result.grad_norm,
            target_std=target_std,
            prediction_std=prediction_std,
            masked_fraction=int(result.targets) / int(result.tokens),
            padding=1 - int(result.tokens) / int(result.positions),
            straggler_share=loader.straggler_share,
            **asdict(self._meters[result.modality].take()),
            memory_gib=speed.memory_gib(engine.device),
            skipped_steps=engine.skipped,
            spikes=guard.spikes,
            rollbacks=guard.rollbacks,
            bad_samples=loader.bad.replaced,
            loss_scale=engine.loss_scale,
            bad_kinds={str(kind): count for kind, count in loader.bad.kinds.items()} or None,
            module_std={name: values.std for name, values in modules.items()} or None,
            module_rank={name: values.rank for name, values in modules.items()} or None,
            module_sample_share={name: values.share for name, values in modules.items()} or None,
        )


def _tokenizer(folder: Path) -> Tokenizer | None:
    """Tokenizer of the run's text; None without text."""
    return load_tokenizer(folder / TOKENIZER_NAME) if (folder / TOKENIZER_NAME).is_dir() else None
