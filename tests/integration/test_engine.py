"""The teacher, the losses and skipped steps of real engines, on one and two ranks under the launcher."""

from __future__ import annotations

import math

import pytest

from tests.integration.processes import train_engines

TINY = [
    "model.layers=3", "model.width=32", "model.heads=2", "model.ffn=64", "vision.image_size=16", "vision.patch_size=4",
    "vision.mask.patches=10", "vision.mask.min_block=2", "vision.mask.max_block=16", "teacher.layers=2",
    "teacher.decay=0.9", "teacher.decay_end=0.99", "teacher.decay_steps=5", "optimizer.lr=0.01", "schedule.warmup=2",
    "schedule.steps=20", "train.steps=10", "batch.global=16", "batch.micro=4", "deepspeed.persistence_threshold=100",
]  # fmt: skip
POISONED = 5


def layouts() -> list[tuple[str, str, bool]]:
    plain = [(f"zero{stage}", precision, False) for stage in range(4) for precision in ("fp32", "bf16")]
    return plain + [("zero1", "fp32", True), ("zero2", "bf16", True), ("zero3", "bf16", True)]


def overrides(stage: str, precision: str, offload: bool) -> list[str]:
    return [*TINY, f"deepspeed={stage}", f"precision={precision}", f"deepspeed.offload_optimizer={offload}"]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_teacher_is_the_fp32_average_of_the_masters_in_every_layout(tmp_path, ranks):
    jobs = [{"overrides": overrides(*layout), "steps": 10, "poison": POISONED} for layout in layouts()]
    for (stage, precision, offload), result in zip(layouts(), train_engines(tmp_path, ranks, jobs), strict=True):
        where = f"{stage} {precision} offload={offload} ranks={ranks}"
        assert result["starts_as_copy"], where
        assert result["teacher_differs"] == [], where
        assert result["teacher_stands_still"] == [], where
        assert result["copy_differs"] == [], where
        assert result["copy_dtype"] == {"fp32": "torch.float32", "bf16": "torch.bfloat16"}[precision], where
        shards = 1 if stage == "zero0" else ranks
        least = 4 * result["parameters"] / shards
        # Padding: the two flat groups, or in stage 3 every parameter, to a multiple of the ranks.
        assert all(least <= held <= least + 4 * 64 for held in result["teacher_bytes"]), where
        # The poisoned step, on one rank's gradient, moved nothing anywhere.
        assert (result["applied"], result["skipped"], result["adam_steps"]) == (9, 1, [9]), where
        assert result["moved_in_poisoned_step"] == [], where
        assert not math.isfinite(result["norms"][POISONED]) and math.isfinite(result["norms"][POISONED + 1]), where


@pytest.mark.slow
def test_a_fresh_engine_goes_on_from_a_checkpoint_in_every_layout(tmp_path):
    jobs = [
        {
            "overrides": [*overrides(*layout), "model.drop_path=0.2", "model.attention_dropout=0.1"],
            "steps": 4,
            "resume_at": 2,
            "folder": str(tmp_path / f"run_{number}"),
        }
        for number, layout in enumerate(layouts())
    ]
    for layout, result in zip(layouts(), train_engines(tmp_path, 2, jobs), strict=True):
        assert result["same_losses"], layout
        assert result["differ"] == [], layout


@pytest.mark.slow
def test_losses_do_not_depend_on_stage_ranks_or_micro_batch(tmp_path):
    settings = [(stage, micro) for stage in range(4) for micro in (2, 8)]
    jobs = [
        {"overrides": [*TINY, f"deepspeed=zero{stage}", "precision=fp32", f"batch.micro={micro}"], "steps": 10}
        for stage, micro in settings
    ]
    runs = [result["losses"] for ranks in (1, 2) for result in train_engines(tmp_path, ranks, jobs)]
    assert runs[0][0] != pytest.approx(runs[0][-1], abs=1e-3), "the loss has to move for this to mean anything"
    for losses in runs[1:]:
        assert losses == pytest.approx(runs[0], abs=1e-5)
