"""Bad steps: what counts as one, what is done about it, when the run stops, and that a resumed guard decides alike."""

import json
import math

import pytest
import torch

from configs.schema_running import GuardConfig
from pretrain.engine.engine import StepResult
from pretrain.health.guard import Guard, RunStopped

NAN, INF = math.nan, math.inf


def result(loss: float, norm: float = 1.0, applied: bool = True) -> StepResult:
    zero = torch.zeros(())
    return StepResult("vision", applied, loss, norm, 0.1, 0.9, zero, zero, zero, zero, 0.0, {})


def take(guard: Guard, step: int, loss: float, norm: float = 1.0, modality="vision"):
    """A step as the engine takes it: DeepSpeed refuses non-finite gradients before anybody is asked."""
    applied = math.isfinite(norm) and guard.judge(modality, loss, norm)
    return guard.check(step, result(loss, norm, applied))


def warmed(**options) -> Guard:
    """A guard that has seen 16 losses around 1 and gradient norms around 2."""
    guard = Guard(GuardConfig(spike_window=16, **options))
    for step in range(16):
        assert take(guard, step, 1 + 0.1 * (step % 2), 2 + 0.1 * (step % 3)) is None
    return guard


def test_steps_that_are_not_finite_are_skipped_and_too_many_in_a_row_stop_the_run():
    guard = Guard(GuardConfig(max_skipped=3))
    for step, (loss, norm) in enumerate([(NAN, NAN), (1.0, INF), (1.0, 1.0), (INF, 1.0), (1.0, NAN)], start=1):
        finding = take(guard, step, loss, norm)
        if step == 3:
            assert finding is None
            continue
        assert (finding.step, finding.kind, finding.action) == (step, "not finite", "skipped")
        assert finding.text == ("a gradient was not finite" if math.isfinite(loss) else "the loss was not finite")
        assert guard.first_in_a_row(finding) == (step in (1, 4))
        guard.stop_if_too_many(finding)
    finding = take(guard, 6, NAN, NAN)
    with pytest.raises(RunStopped, match=r"3 steps in a row .* last was step 6.*Lower optimizer.lr.*bad_steps.jsonl"):
        guard.stop_if_too_many(finding)


def test_a_loss_that_is_not_finite_is_refused_though_its_gradient_is():
    assert not Guard(GuardConfig()).judge("vision", INF, 1.0)


@pytest.mark.parametrize(
    ("loss", "norm", "said"),
    [
        (9.0, 2.0, "loss 9 is 159.0 standard deviations above the mean 1.05 of the last 16"),
        (1.0, 50.0, "gradient norm 50"),
    ],
)
def test_a_spike_is_named_by_its_score(loss, norm, said):
    finding = take(warmed(spike="warn"), 17, loss, norm)
    assert finding.kind == "spike" and finding.action == "applied" and said in finding.text


@pytest.mark.parametrize(("policy", "applied"), [("warn", True), ("skip", False), ("rollback", False), ("off", True)])
def test_the_policy_decides_whether_a_spike_is_applied(policy, applied):
    guard = warmed(spike=policy)
    assert guard.judge("vision", 9.0, 2.0) == applied
    finding = guard.check(17, result(9.0, 2.0, applied))
    assert (finding is None) == (policy == "off")
    assert guard.spikes == (policy != "off")


def test_ordinary_noise_low_losses_and_the_first_steps_are_no_spikes():
    guard = warmed(spike="skip")
    for step, loss in enumerate([1.2, 0.9, 1.25, 0.01], start=17):
        assert take(guard, step, loss) is None
    young = Guard(GuardConfig(spike_window=16, spike="skip"))
    assert all(take(young, step, loss) is None for step, loss in enumerate([1.0, 50.0, 1.0]))


def test_equal_losses_make_no_spike_of_a_small_change():
    guard = Guard(GuardConfig(spike_window=8, spike="skip"))
    assert all(take(guard, step, 1.0) is None for step in range(8))
    assert take(guard, 8, 1.05) is None
    assert take(guard, 9, 1.2).kind == "spike"


def test_a_skipped_spike_leaves_the_window_as_it_was_and_an_applied_one_joins_it():
    for policy, again in (("skip", True), ("warn", False)):
        guard = warmed(spike=policy)
        take(guard, 17, 4.0)
        assert (take(guard, 18, 4.0) is not None) == again, policy


def test_each_modality_has_a_window_of_its_own():
    guard = warmed(spike="skip")
    assert take(guard, 17, 9.0, modality="text") is None
    assert take(guard, 18, 9.0) is not None


def test_a_loss_on_another_level_stops_the_run_that_skips_spikes():
    guard = warmed(spike="skip", max_spikes=3)
    for step in (17, 18):
        guard.stop_if_too_many(take(guard, step, 9.0))
    with pytest.raises(RunStopped, match=r"3 steps in a row were skipped as spikes.*guard.spike_sigma"):
        guard.stop_if_too_many(take(guard, 19, 9.0))


def test_a_rollback_restores_the_windows_and_a_spike_that_stays_stops_the_run():
    guard = warmed(spike="rollback", max_spikes=2)
    saved = guard.state_dict()
    for step in range(17, 25):
        assert take(guard, step, 0.1 + 0.01 * (step % 2)) is None
    finding = take(guard, 25, 9.0)
    assert finding.action == "rollback"
    guard.rolled_back(10, saved)
    assert take(guard, 26, 1.05) is None, "the loss is that of the checkpoint again"
    take(guard, 27, 9.0)
    with pytest.raises(RunStopped, match="went back to step 10 2 times"):
        guard.rolled_back(10, saved)
    assert guard.rollbacks == 2


def test_a_guard_goes_on_from_its_state_as_it_would_have():
    steps = [(1.0 + 0.1 * (n % 4), 2.0) for n in range(20)]
    steps += [(NAN, NAN), (1.1, 2.0), (8.0, 2.0), (8.0, 9.0), (1.0, 2.0)]
    whole, cut = (Guard(GuardConfig(spike="skip", spike_window=16)) for _ in range(2))
    for number, (loss, norm) in enumerate(steps):
        if number in (7, 21, 23):
            resumed = Guard(GuardConfig(spike="skip", spike_window=16))
            resumed.load_state_dict(json.loads(json.dumps(cut.state_dict())))
            cut = resumed
        assert take(whole, number, loss, norm) == take(cut, number, loss, norm)
        assert whole.state_dict() == cut.state_dict()
    assert whole.spikes == 2
