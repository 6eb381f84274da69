"""Lines about the steps for people."""

from __future__ import annotations

import pytest

from pretrain.reporting.console import FIRST_STEPS, FirstSteps, duration


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
