"""Learning rate and teacher decay at the points that the papers name."""

import pytest

from configs.schema_objective import TeacherConfig
from configs.schema_training import OptimizerConfig, ScheduleConfig
from pretrain.engine.schedules import learning_rate, teacher_decay


def test_cosine_rises_from_zero_to_the_peak_and_falls_to_its_end():
    optimizer, schedule = OptimizerConfig(lr=2e-3), ScheduleConfig(kind="cosine", warmup=100, lr_end=1e-5)
    rates = [learning_rate(n, optimizer, schedule, 1000) for n in range(1200)]
    assert rates[0] == 0.0
    assert rates[50] == pytest.approx(1e-3)
    assert rates[100] == pytest.approx(2e-3) == max(rates)
    assert rates[550] == pytest.approx((2e-3 + 1e-5) / 2)
    assert rates[1000:] == pytest.approx([1e-5] * 200)
    assert sorted(rates[100:1000], reverse=True) == rates[100:1000]


def test_linear_and_constant_shapes():
    optimizer = OptimizerConfig(lr=1.0)
    linear = ScheduleConfig(kind="linear", warmup=0)
    assert [learning_rate(n, optimizer, linear, 4) for n in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    constant = ScheduleConfig(kind="constant", warmup=2)
    assert [learning_rate(n, optimizer, constant, 4) for n in range(5)] == [0.0, 0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(("kind", "halfway"), [("linear", (5e-4 + 5e-6) / 2), ("exponential", 5e-5)])
def test_tri_stage_warms_up_holds_and_falls(kind, halfway):
    # fairseq's base_librispeech.yaml: 400,000 steps, 3 % warm-up from 1 % of the peak, 90 % hold, 7 % decay to 1 %
    optimizer = OptimizerConfig(lr=5e-4)
    schedule = ScheduleConfig(kind=kind, warmup=12_000, hold=360_000, lr_start=5e-6, lr_end=5e-6)
    points = {0: 5e-6, 6_000: (5e-4 + 5e-6) / 2, 12_000: 5e-4, 200_000: 5e-4, 372_000: 5e-4, 386_000: halfway}
    points |= {400_000: 5e-6, 10**6: 5e-6}
    rates = {step: learning_rate(step, optimizer, schedule, 400_000) for step in points}
    assert rates == pytest.approx(points, rel=1e-12)
    assert rates[12_000] == rates[372_000] == 5e-4 and rates[400_000] == 5e-6  # exactly
    falling = [learning_rate(step, optimizer, schedule, 400_000) for step in range(372_000, 400_001, 7_000)]
    assert sorted(falling, reverse=True) == falling and len(set(falling)) == 5


def test_decay_ramps_linearly_and_is_exact_after_the_ramp():
    speech = TeacherConfig(decay=0.999, decay_end=0.9999, decay_steps=30000)
    assert teacher_decay(0, speech) == pytest.approx(0.999)
    assert teacher_decay(15000, speech) == pytest.approx(0.99945)
    assert teacher_decay(30000, speech) == teacher_decay(10**6, speech) == 0.9999


def test_decay_without_a_ramp_is_constant():
    assert {teacher_decay(n, TeacherConfig(decay=0.9998)) for n in (0, 1, 10**6)} == {0.9998}
