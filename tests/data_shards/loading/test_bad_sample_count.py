import numpy as np
import pytest

from configs.schema_training import DataConfig
from data_shards.loading.bad_sample_count import BadSampleCount, Outcome, TooManyBadSamples, joined
from data_shards.loading.loader import open_loader
from data_shards.loading.modality_loader import ModalityLoader
from data_shards.shards.bad_sample import Report
from tests.data_shards.shard_tools import counted_steps, damage, make_shards, small_config
from tests.own import own


def outcome(replaced, reports=None, lane=0):
    """One rank's part of a step, in one lane; without `reports` one for each replaced sample."""
    flags = np.array(replaced, bool)
    bad = [report(i) for i in range(flags.sum())] if reports is None else reports
    return Outcome(np.full(len(flags), lane), np.arange(len(flags)), flags, bad)


def report(number, kind="checksum", shard="a.tar"):
    return Report(shard, f"key '{number}'", kind, "its reason")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_the_first_are_logged_then_one_in_30_seconds_says_how_many_were_not(caplog):
    clock = Clock()
    bad = BadSampleCount(DataConfig(), clock=clock)
    for i in range(100):
        bad.add(100, [outcome([False] * 99 + [True], [report(i)])])
        clock.now += 1
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 13
    assert lines[9] == "bad sample 10, replaced: a.tar, key '9': its reason"
    assert lines[10] == "bad sample 40, replaced: a.tar, key '39': its reason (29 more since the last such line)"


def test_the_summary_has_kinds_and_shards_once(caplog):
    bad = BadSampleCount(DataConfig())
    assert bad.summary == ""
    bad.close()
    kinds = ["checksum"] * 9 + ["decode"] * 3
    reports = [report(i, kind, "b.tar" if i < 2 else "a.tar") for i, kind in enumerate(kinds)]
    bad.add(100, [outcome([True] * 10 + [False] * 90, reports)])
    caplog.clear()
    bad.close()
    bad.close()
    assert [record.getMessage() for record in caplog.records] == [
        "bad samples: 12 (checksum 9, decode 3) in 2 shards: a.tar 10, b.tar 2"
    ]
    assert bad.kinds == {"checksum": 9, "decode": 3} and (bad.replaced, bad.read) == (10, 100)


def test_only_one_rank_logs(caplog):
    bad = BadSampleCount(DataConfig(), logs=False)
    bad.add(10, [outcome([True] + [False] * 9)])
    bad.close()
    assert caplog.text == "" and bad.replaced == 1


def test_a_streak_stops_the_run_wherever_steps_end():
    bad = BadSampleCount(DataConfig(max_bad_streak=4))
    bad.add(6, [outcome([True, True, True, False, True, True])])
    bad.add(1, [outcome([True])])
    bad.add(4, [])
    bad.add(3, [outcome([True] * 3)])
    with pytest.raises(TooManyBadSamples, match=r"^4 samples in a row .*data\.max_bad_streak.*validate shards=a\.tar"):
        bad.add(1, [outcome([True])])


def test_a_streak_runs_along_the_lanes_of_all_ranks():
    """Those at the end of lane 0 and in lane 1, on another rank, are neighbours; those in lanes 0 and 2 are not."""
    three = [True] * 3
    for lanes, together in (((1, 0), True), ((2, 0), False)):
        bad = BadSampleCount(DataConfig(max_bad_streak=4))
        step = [outcome(three, lane=lanes[0]), outcome(three, lane=lanes[1]), outcome([False], lane=1)]
        if together:
            with pytest.raises(TooManyBadSamples, match="4 samples in a row"):
                bad.add(7, step[:2])
        else:
            bad.add(7, step)
            assert bad.streak == 3


def test_parts_of_a_step_are_joined_in_the_order_of_lanes():
    parts = [outcome([True, False], lane=2), outcome([False, True], lane=0), outcome([True], lane=1)]
    assert joined(parts).replaced.tolist() == joined(parts[::-1]).replaced.tolist() == [False, True, True, True, False]


@pytest.fixture
def damaged(tmp_path):
    """Shards of which sample 5 has a flipped byte."""
    pattern = make_shards(tmp_path, (30, 17, 23))
    damage(tmp_path)
    return pattern


def test_only_replacements_of_consumed_steps_count(damaged):
    loader = ModalityLoader(own(small_config(damaged, workers=1, prefetch=8)), 0, 1)
    counts = []
    for (step,) in counted_steps([loader], 8):
        assert sum(map(len, step)) == 8
        counts.append(loader.bad.replaced)
    assert counts[-1] == 1 and sorted(counts) == counts
    assert loader.bad.kinds == {"checksum": 1} and loader.bad.read == 64


def history(config, world, first=0, steps=40, before=None):
    """(samples replaced after each step, the error that stopped the run, the count) of `world` ranks.

    before: the count of a run that this one resumes at step `first`.
    """
    loaders = [open_loader(config, rank, world) for rank in range(world)]
    counts, error = [], ""
    for loader in loaders if before else ():
        loader.bad.restore(before.replaced, before.read, before.streak, before.kinds)
    try:
        for _ in counted_steps(loaders, steps, first):
            assert len({(loader.bad.replaced, loader.bad.read) for loader in loaders}) == 1
            counts.append(loaders[0].bad.replaced)
    except TooManyBadSamples as stopped:
        error = str(stopped).partition(";")[0]
    return counts, error, loaders[0].bad


@pytest.mark.parametrize("modality", ["vision", "speech"])
@pytest.mark.parametrize("limit", [{"max_bad_samples": 6, "max_bad_fraction": 0.01}, {"max_bad_streak": 2}], ids=str)
def test_a_run_stops_at_the_same_step_on_any_ranks_resumed_or_not(tmp_path, modality, limit):
    pattern = make_shards(tmp_path, (30, 17, 23), modality=modality)
    damage(tmp_path, range(5, 30, 3))
    config = small_config(pattern, batch=8, micro=2, lanes=4, modality=modality, **limit)
    counts, error, bad = history(config, 1)
    assert error and 1 < len(counts) < 39
    for world in (2, 4):
        assert history(config, world)[:2] == (counts, error)
    for taken, world in ((len(counts) - 1, 4), (len(counts), 2)):
        *_, before = history(config, 2, 0, taken)
        after, same, resumed = history(config, world, taken, 40, before)
        assert (after, same) == (counts[taken:], error) and resumed.kinds == bad.kinds


def test_past_the_cap_the_run_stops_and_the_cause_is_named(damaged):
    config = small_config(damaged, workers=1, max_bad_samples=0, max_bad_fraction=0.01)
    with pytest.raises(TooManyBadSamples, match=r"data\.max_bad_samples=0.*train-000000\.tar, key '000005'.*checksum"):
        for _ in counted_steps([ModalityLoader(own(config), 0, 1)], 8):
            pass
