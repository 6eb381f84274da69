"""The teacher, the losses and skipped steps of real engines, on one and two ranks under the launcher."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from tests.integration.made_up import KINDS, SECOND, tiny
from tests.integration.processes import train_engines

pytestmark = pytest.mark.slow

STEPS, POISONED = 7, 3
DROPPED = "model.layer_drop=0.3"
RANKS = (1, 2)

Layout = tuple[str, str, bool]


PLAIN = [(f"zero{stage}", precision, False) for stage in range(4) for precision in ("fp32", "bf16")]
OFFLOADED = [("zero1", "fp32", True), ("zero2", "bf16", True), ("zero3", "bf16", True)]
LAYOUTS: dict[str, list[Layout]] = {  # where the masters lie has nothing to do with the modality: half suffices there
    "vision": [*PLAIN, *OFFLOADED],
    "speech": [("zero0", "bf16", False), ("zero2", "fp32", False), ("zero3", "bf16", False)],
    "text": [("zero0", "fp32", False), ("zero1", "bf16", False), ("zero3", "fp32", False), ("zero2", "bf16", True)],
    "mixture": [("zero1", "bf16", False), ("zero2", "fp32", False), ("zero3", "fp32", False), *OFFLOADED[1:]],
    "vision v2": [("zero1", "fp32", False), ("zero3", "bf16", False)],
    "speech v2": [("zero3", "fp32", False)],
    "text v2": [("zero2", "bf16", True)],
    "mixture v2": [("zero2", "fp32", False)],
}
EVERY = [(kind, layout) for kind in LAYOUTS for layout in LAYOUTS[kind]]
SKIPPED = [("vision", layout) for layout in (*PLAIN[1:7:2], OFFLOADED[2])] + [("text", LAYOUTS["text"][1])]
SOME = [case for case in EVERY if case not in SKIPPED]
"""Each stage, precision and offload in some modality."""
each_set = pytest.mark.parametrize("cases", [SOME, pytest.param(EVERY, marks=pytest.mark.soak)], ids=["some", "every"])


def overrides(kind: str, layout: Layout, micro: int = 3) -> list[str]:
    """Steps of 8 samples; of 4 on each of two ranks, so that the micro-batches are one of 3 and one of 1."""
    stage, precision, offload = layout
    placed = [f"deepspeed={stage}", f"precision={precision}", f"deepspeed.offload_optimizer={offload}"]
    return [*tiny(kind, 8, micro), *placed]


def pairs(cases: list, results: list[dict]) -> Iterator[tuple]:
    return zip(cases, results, strict=True)


@pytest.mark.parametrize("ranks", RANKS)
@each_set
def test_the_teacher_is_the_fp32_average_of_the_masters_in_every_layout(tmp_path, ranks, cases):
    if ranks == 1:  # all layouts, and the offloaded ones
        cases = [case for case in cases if case[0] == "vision" or case[1][2]]
    jobs = [{"overrides": [*overrides(*case), DROPPED], "steps": STEPS, "poison": POISONED} for case in cases]
    for (kind, layout), result in pairs(cases, train_engines(tmp_path, ranks, jobs)):
        where = f"{kind} {layout} ranks={ranks}"
        assert result["starts_as_copy"], where
        assert result["teacher_differs"] == [], where
        assert result["student_stands_still"] == [], where
        assert result["teacher_is_student"] == [], where
        assert result["copy_differs"] == [], where
        assert result["copy_dtype"] == {"fp32": "torch.float32", "bf16": "torch.bfloat16"}[layout[1]], where
        shards = 1 if layout[0] == "zero0" else ranks
        least = 4 * result["averaged"] / shards
        # Padding: each flat group, or in stage 3 every parameter, to a multiple of the ranks.
        assert all(least <= held <= least + 4 * 256 for held in result["teacher_bytes"]), where
        # The poisoned step, on one rank's gradient, moved nothing anywhere.
        assert (result["applied"], result["skipped"]) == (STEPS - 1, 1), where
        assert "mixture" in kind or result["adam_steps"] == [STEPS - 1], where
        assert result["moved_in_poisoned_step"] == [], where
        assert not math.isfinite(result["norms"][POISONED]) and math.isfinite(result["norms"][POISONED + 1]), where
        assert result["moved_by_another_modality"] == [], where


def test_an_update_takes_the_decay_of_the_updates_with_it_as_fairseq_does(tmp_path):
    """A ramp from 0.9 to 0.99 in 5 updates, of which the first has 1/5; the step that is not applied counts nothing."""
    jobs = [{"overrides": overrides("vision", PLAIN[0]), "steps": STEPS, "poison": POISONED}]
    (result,) = train_engines(tmp_path, 1, jobs)
    assert result["decays"] == pytest.approx([0.918, 0.936, 0.954, 0.972, 0.972, 0.99, 0.99], abs=1e-12)


@each_set
def test_a_fresh_engine_goes_on_from_a_checkpoint_in_every_layout(tmp_path, cases):
    noisy = ["model.dropout=0.1", "model.attention_dropout=0.1", DROPPED]
    more = {"vision": ["model.drop_path=0.2"], "mixture": ["mixture.blocks=separate"]}
    more |= {f"{kind} v2": [*keys, "decoder.dropout=0.1", "teacher.decay_end=1"] for kind, keys in more.items()}
    jobs = [
        {
            "overrides": [*overrides(*case), *noisy, *more.get(case[0], [])],
            "steps": 4,
            "resume_at": 2,
            "folder": str(tmp_path / f"run_{number}"),
        }
        for number, case in enumerate(cases)
    ]
    for case, result in pairs(cases, train_engines(tmp_path, 2, jobs)):
        assert result["same_losses"] and result["same_samples"], case
        assert result["differ"] == [], case


def test_losses_do_not_depend_on_stage_ranks_micro_batch_or_offload(tmp_path):
    """With dropped blocks and several micro-batches: where a stage keeps or loses a gradient, the losses show it."""
    whole = ("zero0", "fp32", False)
    sharded = [(f"zero{stage}", "fp32", offload) for stage in (1, 2, 3) for offload in (False, True)]
    settings = {1: [(whole, 8), (whole, 3), (sharded[4], 3)], 2: [(layout, 3) for layout in [whole, *sharded]]}
    settings_v2 = {1: settings[1][:2], 2: [(layout, 3) for layout in (whole, sharded[2], sharded[4])]}
    runs = {}
    for ranks in RANKS:
        cases = [(kind, *setting) for kind in KINDS for setting in settings[ranks]]
        cases = [case for case in cases if case[0] in ("vision", "mixture") or not case[1][2]]  # there the offloaded
        cases += [(kind, *setting) for kind in SECOND for setting in settings_v2[ranks]]
        jobs = [{"overrides": [*overrides(*case), DROPPED], "steps": 7} for case in cases]
        runs |= {(ranks, *case): got for case, got in pairs(cases, train_engines(tmp_path, ranks, jobs))}
    assert {kind for _, kind, *_ in runs} == {*KINDS, *SECOND}
    for (ranks, kind, layout, micro), got in runs.items():
        expected = runs[1, kind, whole, 8]
        assert expected["losses"][0] != pytest.approx(expected["losses"][-1], abs=1e-3), "the loss has to move"
        assert got["losses"] == pytest.approx(expected["losses"], rel=2e-6, abs=1e-5), (ranks, kind, layout, micro)
        assert got["samples"] == expected["samples"]
