"""The table of a run, beside what its engine and its loader then do, on two ranks."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest

from configs.compose import compose_pretrain
from configs.schema_modalities import MODALITIES
from pretrain.describing.memory import number, size
from pretrain.describing.table import half_life, half_life_text
from tests.golden.worker import SAMPLES, STEPS, make_shards, overrides
from tests.integration.made_up import KINDS
from tests.integration.processes import ROOT, launch

RANKS = 2
Row = tuple[str, int, int, list[int], float, float, int]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What table_worker.py writes, and the entries of each table by name."""
    folder = tmp_path_factory.mktemp("table")
    make_shards(folder)
    done = launch(RANKS, str(ROOT / "tests/pretrain/describing/table_worker.py"), str(folder))
    assert (folder / "table.json").is_file(), done.stdout[-2000:] + done.stderr[-4000:]
    found = json.loads((folder / "table.json").read_text())
    for kind in found.values():
        kind["table"] = dict(re.split(r" {2,}", line, maxsplit=1) for line in kind["lines"])
    return found


def parts(kind: str) -> list[tuple[str, str]]:
    """Modality and the beginning of the names of its entries."""
    return [(name, f"{name} ") for name in MODALITIES] if kind == "mixture" else [(kind, "")]


def found(pattern: str, text: str) -> list[float]:
    match = re.search(pattern, text)
    assert match, (pattern, text)
    return [float(group.replace(",", "")) for group in match.groups()]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_samples_epochs_and_batches_are_those_of_the_loader(seen: dict[str, Any], kind: str) -> None:
    for modality, name in parts(kind):
        rows: list[Row] = [row for row in seen[kind]["rows"] if row[0] == modality]
        samples, epochs, steps = found(
            r"^(\d+) samples.*; ([\d.]+) epochs of (\d+) steps in this run$", seen[kind]["table"][f"{name}data"]
        )
        assert samples == SAMPLES and epochs == pytest.approx(len(rows) / steps, rel=0.01)
        assert [row[1] for row in rows] == [number // steps for number in range(len(rows))]
        text = seen[kind]["table"][f"{name}batch"]
        whole, ranks, count = found(r"^(\d+) samples a step: (\d+) ranks x (\d+) micro-batch", text)
        assert all(row[2] == whole for row in rows) and ranks == RANKS
        sizes = rows[0][3]
        assert count == len(sizes) and whole == ranks * sum(sizes)
        spread = f"{min(sizes)} to {max(sizes)}" if len(set(sizes)) > 1 else f"{sizes[0]}"
        assert re.search(rf"micro-batch(es)? of {spread}($| in the first step)", text)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_schedules_are_those_of_the_engine(seen: dict[str, Any], kind: str) -> None:
    rates, decays = zip(*[(row[4], row[5]) for row in seen[kind]["rows"]], strict=True)
    first, peak, warm, end, last, steps = found(
        r"^(\d+) to ([\d.]+) in (\d+) steps, cosine to ([\d.e-]+) at step 20; ([\d.e-]+) in the last step, (.+)$",
        seen[kind]["table"]["lr"],
    )
    assert (rates[0], rates[int(warm)], max(rates), steps) == (first, peak, peak, STEPS)
    assert rates[-1] == pytest.approx(last, rel=0.01) and rates[-1] > end
    low, high, life, share, later = found(
        r"^decay ([\d.]+) to ([\d.]+): half-life ([\d.]+) steps, ([\d.]+) % of the run, later half-life ([\d.]+) steps",
        seen[kind]["table"]["teacher"],
    )
    assert (low, high) == (pytest.approx(decays[0]), decays[-1])
    assert decays[0] ** life == pytest.approx(0.5, rel=0.01) and decays[-1] ** later == pytest.approx(0.5, rel=0.01)
    assert share == pytest.approx(100 * life / STEPS, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_model_precision_and_states_are_those_of_the_engine(seen: dict[str, Any], kind: str) -> None:
    table, one = seen[kind]["table"], seen[kind]
    trained, averaged = found(r"([\d.]+) M parameters, ([\d.]+) M of them averaged", table["model"])
    assert (trained, averaged) == (round(one["trained"] / 1e6, 2), round(one["averaged"] / 1e6, 2))
    assert table["model"].startswith("tiny: 3 blocks of width 32, 2 heads") and "the top 2 blocks" in table["model"]
    assert table["precision"] == "fp32, ZeRO 1"
    assert table["kernels"].startswith("LayerNorm: torch LayerNorm (") and "Adam: torch" in table["kernels"]
    gradients = 4 * one["trained"]
    assert one["kept"] == pytest.approx(one["states"] - gradients, rel=0.1), "beside gradients, which are freed"
    assert f"{size(one['states'])} of states" in table["memory"]
    assert table["time"] == f"{STEPS} steps to take"


@pytest.mark.slow
def test_inputs_are_as_large_as_said(seen: dict[str, Any]) -> None:
    text, speech = seen["text"]["table"]["input"], seen["speech"]["table"]["input"]
    assert found(r"images of (\d+) x (\d+) pixels, patches of (\d+); at most (\d+) of (\d+) masked",
                 seen["vision"]["table"]["input"]) == [16, 16, 4, 10, 16]  # fmt: skip
    assert max(row[6] for row in seen["text"]["rows"]) <= found(r"at most (\d+) tokens, of (\d+) types", text)[0]
    assert max(row[6] for row in seen["speech"]["rows"]) <= found(r"at most ([\d.]+) s: (\d+) frames", speech)[1]
    assert re.search(r"; [\d.]+e?-?\d* hours;", seen["speech"]["table"]["data"])
    assert re.search(r"; \d+ tokens;", seen["text"]["table"]["data"])


@pytest.mark.parametrize(
    ("decay", "steps", "text"),
    [
        (0.9998, 60, "half-life 3,465 steps, 5,776 % of the run"),
        (0.5, 100, "half-life 1 steps, 1 % of the run"),
        (1.0, 100, "half-life without end steps"),
        (0.0, 100, "half-life 0 steps, 0 % of the run"),
    ],
)
def test_a_half_life_in_steps_and_as_a_share(decay: float, steps: int, text: str) -> None:
    assert half_life_text(decay, steps) == text
    assert not 0 < decay < 1 or math.isclose(decay ** half_life(decay), 0.5)


def test_numbers_and_sizes_are_short() -> None:
    assert [number(value) for value in (3, 3.14159, 1234.5)] == ["3", "3.14", "1,234"]
    assert [size(value) for value in (2**20, 3 * 2**29, 80 * 2**30)] == ["1 MiB", "1.5 GiB", "80 GiB"]


def test_what_the_worker_runs_is_what_these_tests_say(tmp_path) -> None:
    config = compose_pretrain(overrides(tmp_path, "vision"))
    assert (config.train.steps, config.schedule.kind, config.model.layers) == (STEPS, "cosine", 3)
