"""Lines about the steps for people."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from typing import Any

import pytest

from configs.compose import compose_pretrain, parse
from configs.schema import PretrainConfig
from configs.schema_commands import BoardConfig, ExportConfig, ProbeCommandConfig
from pretrain.reporting import console
from pretrain.reporting.console import FIRST_STEPS, FirstSteps, duration
from pretrain.reporting.metrics import MetricsRow
from tests.pretrain.reporting.test_tensorboard import ROW


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (34, "34 s"), (600, "10 min"), (9000, "2.5 hours"), (36 * 3600, "36 hours"), (1e6, "11.6 days")],
)
def test_a_duration_has_the_unit_that_fits(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_expected_time_is_said_once_after_the_first_steps_and_the_slow_start_does_not_count() -> None:
    first = FirstSteps()
    said = [first.expected(60.0 if step < 2 else 0.5, 1000 - step) for step in range(1, 40)]
    assert [line for line in said if line] == ["a step takes 0.5 s: about 8.2 min for 980 more steps"]
    assert said[FIRST_STEPS - 1]


def test_a_run_that_ends_before_does_not_say_it() -> None:
    first = FirstSteps()
    assert not any(first.expected(0.5, 20 - step) for step in range(1, 21))


def row(step: int, **figures: Any) -> MetricsRow:
    figures = {"loss": 0.12345678, "lr": 2e-4, "target_std": 0.5, "grad_norm": 1.25, "memory_gib": 1.5, **figures}
    return replace(ROW, step=step, epoch=2, samples_per_s=1234.5, **{"data_wait_share": 0.0, **figures})


def config(*overrides: str) -> PretrainConfig:
    return compose_pretrain(["train.steps=1000", "run.dir=runs/my run", *overrides])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which moves when a test says so."""
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_a_row_has_the_figures_of_the_step_and_the_time_left_at_the_recent_rate(clock: list[float]) -> None:
    rows, lines = console.Console(config(), 0), []
    for step in range(10, 120, 10):
        clock[0] += 100 if step <= 10 else 2
        lines += rows.lines(row(step))
    header, first, *others = [re.split(r" {2,}", line.strip()) for line in lines]
    assert header == [*console._COLUMNS]
    assert first == ["10/1,000", "2", "0.12346", "0.0002", "0.5", "1.25", "1,234", "0%", "1.5 GiB", "2.8 hours"]
    assert others[-1][0] == "110/1,000" and others[-1][-1] == "3.0 min"
    assert len(others) == 10 and all(len(line) == len(header) for line in others)


def test_a_header_comes_again_and_a_mixture_names_the_modality() -> None:
    rows = console.Console(config("recipe=mixture_base"), 0)
    lines = [line for step in range(1, 30) for line in rows.lines(row(step))]
    assert [i for i, line in enumerate(lines) if line.lstrip().startswith("step ")] == [0, 26]
    assert lines[1].endswith("  vision")


def test_the_hint_comes_once_and_only_if_data_bounds_the_run_for_a_while() -> None:
    def said(shares: list[float]) -> list[str]:
        rows = console.Console(config("data.workers=1"), 0, cores=8)
        lines = [line for step, share in enumerate(shares) for line in rows.lines(row(step, data_wait_share=share))]
        return [line for line in lines if "data bounds" in line]

    assert len(said([0.9, 0.5, 0.5, 0.5, 0.5, 0.5])) == 1
    assert said([0.9, 0.5, 0.5]) == said([0.0] * 9) == said([0.5, 0.5, 0.1, 0.5, 0.5, 0.1]) == []


@pytest.mark.parametrize(
    ("overrides", "figures", "cores", "ends"),
    [
        (["data.workers=1"], {"read_ms": 1.0, "decode_ms": 9.0, "batch_ms": 2.0, "data_wait_share": 0.6}, 8,
         "60% of a step is waiting for it. decoding takes 9 ms of the 12 ms of a sample; data.workers=1 of 8 cores a "
         "rank: set data.workers=3"),
        (["data.workers=0"], {"data_wait_share": 0.5}, 4, "set data.workers=1"),
        (["data.workers=1"], {"data_wait_share": 0.9}, 3, "data.workers=1 of 3 cores a rank: set data.workers=2"),
        (["data.workers=2"], {"read_ms": 9.0, "data_wait_share": 0.9}, 2,
         "keep the shards on a faster disk, or raise data.read_ahead_mb and data.cache_gb for remote ones"),
        (["data.workers=2"], {"decode_ms": 9.0, "data_wait_share": 0.9}, 1,
         "of 1 core a rank: more cores are needed, or less work: build the shards from images of about 56 pixels"),
    ],
)  # fmt: skip
def test_the_hint_names_the_stage_the_key_and_what_helps(
    overrides: list[str], figures: dict[str, float], cores: int, ends: str
) -> None:
    assert console.hint(config(*overrides), row(5, **figures), cores).endswith(ends)


def test_the_end_says_where_what_and_what_comes_next() -> None:
    assert console.ending(1000, 64000, 600.0, "runs/x/checkpoints/step_00001000") == (
        "done: 1,000 steps and 64,000 samples; 10 min since this start; saved runs/x/checkpoints/step_00001000"
    )
    for overrides, probed in (([], False), (["recipe=mixture_base"], True)):
        for line in console.next_commands(config(*overrides), probed):
            door, name, *arguments = shlex.split(line)
            assert door == "./run.sh" and "run=runs/my run" in arguments
            parse({"probe": ProbeCommandConfig, "board": BoardConfig, "export": ExportConfig}[name], arguments)
    assert "modality=vision" in console.next_commands(config("recipe=mixture_base"), True)[1]
