"""Bad steps in whole runs: what is not finite is located, spikes are skipped or rolled back, a collapse is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pretrain.launching.exits import HALTED
from tests.integration.made_up import tiny
from tests.integration.processes import ROOT, launch, train_engines
from tests.integration.real_shards import build_shards

pytestmark = pytest.mark.slow

BLOCK = "student.encoder.blocks.1"
PLANTS = [
    ("output", f"{BLOCK}.feed_forward.fc1", f"rank 1: the output of {BLOCK}.feed_forward.fc1"),
    ("output", "teacher.encoder.blocks.0.attention", "rank 1: the output of teacher.encoder.blocks.0.attention"),
    # The way back from there leads through the norm to what the attention has made.
    ("gradient", f"{BLOCK}.norm2", f"rank 1: the gradient at the output of {BLOCK}.attention"),
]


def test_the_module_is_named_in_every_stage_and_nothing_is_left_of_the_second_run(tmp_path):
    layouts = [("zero0", "fp32", False), ("zero0", "bf16", False), ("zero1", "bf16", False), ("zero1", "fp32", True)]
    layouts += [("zero2", "fp32", False), ("zero2", "bf16", True), ("zero3", "fp32", False), ("zero3", "bf16", True)]
    jobs = []
    for stage, precision, offload in layouts:
        placed = [f"deepspeed={stage}", f"precision={precision}", f"deepspeed.offload_optimizer={offload}"]
        plants = [[where, name] for where, name, _ in PLANTS]
        jobs.append({"overrides": [*tiny("vision", 8, 2), *placed, "teacher.layers=3"], "plants": plants})
    for layout, result in zip(layouts, train_engines(tmp_path, 2, jobs), strict=True):
        assert result["found"] == [[False, text] for _, _, text in PLANTS], layout
        assert result["same_afterwards"], layout


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> dict[str, Path]:
    return {name: build_shards(tmp_path_factory.mktemp(name), name) for name in ("vision", "speech")}


def overrides(kind: str, shards: Path, run: Path, *more: str) -> list[str]:
    """Steps enough for the loss to fall, and to level out."""
    return [
        *tiny(kind, 16, 4), f"data.shards={shards}/train-*.tar", f"run.dir={run}", "log.every=1", "train.steps=60",
        "schedule.steps=60", "checkpoint.every=5", "precision=fp32", "data.workers=0", "log.peak_tflops=1",
        "deepspeed=zero2", "guard.spike_window=16", "guard.collapse_every=5", "optimizer.lr=0.003",
        # Targets that hardly move: else the loss is as much theirs as the student's.
        "teacher.decay=0.999", "teacher.decay_end=0.999", *more,
    ]  # fmt: skip


def run(kind: str, first: int, last: int, arguments: list[str]):
    """A run with something planted in steps `first` to `last`."""
    return launch(2, str(ROOT / "tests/integration/planted.py"), kind, str(first), str(last), *arguments)


def rows(run: Path, name: str = "metrics.jsonl") -> list[dict]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run("nothing", 0, 0, overrides("vision", shards["vision"], folder))
    assert done.returncode == 0, done.stderr[-4000:]
    assert not (folder / "bad_steps.jsonl").exists() and "collapsed" not in done.stderr
    found = rows(folder)
    assert found[-1]["loss"] < 0.85 * found[0]["loss"]
    assert set(found[4]["module_std"]) == {
        f"{net}.{name}"
        for net in ("student", "teacher")
        for name in ("patch_embedding", *(f"encoder.blocks.{n}" for n in range(3)))
    }
    return found


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_a_spike_is_left_out_and_the_run_ends_where_it_would_have(policy, shards, undisturbed, tmp_path):
    done = run("spike", 18, 19, overrides("vision", shards["vision"], tmp_path, f"guard.spike={policy}"))
    assert done.returncode == 0, done.stderr[-4000:]
    found = rows(tmp_path)
    assert [row["step"] for row in found] == list(range(1, 61))
    assert [row["loss"] for row in found[:17]] == [row["loss"] for row in undisturbed[:17]]
    end, expected = (sum(row["loss"] for row in some[-12:]) / 12 for some in (found, undisturbed))
    assert end == pytest.approx(expected, rel=0.02)
    assert found[-1]["spikes"] == 2
    bad = rows(tmp_path, "bad_steps.jsonl")
    assert [row["step"] for row in bad] == [18, 19] and all(len(row["samples"]) == 16 for row in bad)
    assert "train-000000.tar: " in bad[0]["samples"][0]
    assert "standard deviations above the mean" in done.stderr
    if policy == "skip":
        assert (found[-1]["skipped_steps"], found[-1]["rollbacks"]) == (2, 0)
    else:  # steps 16, 17 and 18 are given up, then step 19
        assert (found[-1]["skipped_steps"], found[-1]["rollbacks"]) == (4, 2)
        back = f"back at {tmp_path}/checkpoints/step_00000015: its weights go on at step 19; 3 steps are lost"
        assert back in done.stderr
        assert found[19]["lr"] == undisturbed[15]["lr"], "schedules are functions of applied steps"


def test_a_spike_is_only_named_where_that_is_asked_for(shards, undisturbed, tmp_path):
    done = run("spike", 18, 18, overrides("vision", shards["vision"], tmp_path))
    assert done.returncode == 0 and "it was applied" in done.stderr, done.stderr[-4000:]
    assert rows(tmp_path)[-1]["skipped_steps"] == 0 and rows(tmp_path)[-1]["spikes"] >= 1


def test_steps_that_are_not_finite_are_located_written_down_and_end_the_run(shards, tmp_path):
    arguments = overrides("vision", shards["vision"], tmp_path, "guard.max_skipped=3")
    for _ in range(2):  # once more from the checkpoint of step 10: what is taken again is written down once
        done = run("nan", 12, 40, arguments)
        assert done.returncode == HALTED, done.stderr[-4000:]
    where = "rank 1: the output of student.encoder.blocks.1.feed_forward"
    assert f"step 12: the loss was not finite; first there: {where}: nothing moved" in done.stderr
    assert "error: 3 steps in a row had non-finite gradients or losses, the last was step 14" in done.stderr
    assert "Traceback" not in done.stderr
    bad = rows(tmp_path, "bad_steps.jsonl")
    assert [(row["step"], row["where"]) for row in bad] == [(12, where), (13, None), (14, None)]
    assert [row["skipped_steps"] for row in rows(tmp_path)[-3:]] == [1, 2, 3]
    assert Path(tmp_path / "checkpoints/latest").read_text() == "step_00000010"


@pytest.mark.parametrize("policy", ["warn", "stop"])
def test_a_collapse_of_the_feature_encoder_is_named_while_the_loss_looks_fine(policy, shards, tmp_path):
    done = run("collapse", 12, 12, overrides("speech", shards["speech"], tmp_path, f"guard.collapse={policy}"))
    assert done.returncode == (HALTED if policy == "stop" else 0), done.stderr[-4000:]
    collapsed = [line for line in done.stderr.splitlines() if "has collapsed" in line]
    assert "student.feature_encoder has collapsed at step 15" in collapsed[0]
    found = rows(tmp_path)
    assert found[14]["loss"] < 1.2 * found[10]["loss"], "the loss does not show it"
    assert found[14]["module_std"]["student.feature_encoder"] < 0.01 * found[9]["module_std"]["student.feature_encoder"]
    assert "Traceback" not in done.stderr
