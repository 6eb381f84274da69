"""Skipped steps are warned of once each, and end the run when they do not end."""

import pytest

from configs.schema import GuardConfig
from pretrain import distributed
from pretrain.guard import Guard, RunStopped


def test_each_skipped_step_is_one_warning_and_too_many_in_a_row_stop_the_run(caplog):
    guard = Guard(GuardConfig(max_skipped=3))
    for step, applied in enumerate([False, False, True, False, False], start=1):
        guard.check(step, applied)
    said = [record.getMessage().split(":")[0] for record in caplog.records]
    assert said == [f"step {n} skipped" for n in (1, 2, 4, 5)]
    with pytest.raises(RunStopped, match=r"3 steps in a row .* the last was step 6.*Lower optimizer.lr"):
        guard.check(6, False)


def test_other_ranks_are_silent(caplog, monkeypatch):
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    Guard(GuardConfig()).check(1, False)
    assert not caplog.records
