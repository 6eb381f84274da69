from itertools import islice

import numpy as np
import pytest

from configs.schema_training import DataConfig
from data_shards.loading.bad_sample_count import BadSampleCount
from data_shards.loading.loader import open_loader
from data_shards.loading.modality_loader import ModalityLoader
from data_shards.shards.bad_sample import Report
from tests.data_shards.shard_tools import damage, make_shards, small_config
from tests.own import own

GOOD, BAD = np.zeros(1, bool), np.ones(1, bool)


def report(number, kind="checksum", shard="a.tar"):
    return Report(shard, f"key '{number}'", kind, "its reason")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_the_first_are_logged_then_one_in_30_seconds_says_how_many_were_not(caplog):
    clock = Clock()
    bad = BadSampleCount(DataConfig(), clock)
    for i in range(100):
        bad.add(np.array([False] * 99 + [True]), [report(i)])
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
    bad.add(
        np.array([True] * 10 + [False] * 90), [report(i, k, "b.tar" if i < 2 else "a.tar") for i, k in enumerate(kinds)]
    )
    caplog.clear()
    bad.close()
    bad.close()
    assert [record.getMessage() for record in caplog.records] == [
        "bad samples: 12 (checksum 9, decode 3) in 2 shards: a.tar 10, b.tar 2"
    ]
    assert bad.kinds == {"checksum": 9, "decode": 3} and (bad.replaced, bad.read) == (10, 100)


def test_a_streak_stops_the_run_wherever_micro_batches_end():
    bad = BadSampleCount(DataConfig(max_bad_streak=4))
    some = np.array([True, True, True, False, True, True])
    bad.add(some, [report(i) for i in range(5)])
    bad.add(BAD, [report(5)])
    bad.add(GOOD, [])
    bad.add(np.ones(3, bool), [report(i) for i in range(3)])
    with pytest.raises(
        ValueError, match=r"^4 samples in a row .*data\.max_bad_streak.*a\.tar, key '9'.*validate shards=a\.tar"
    ):
        bad.add(BAD, [report(9)])


@pytest.fixture
def damaged(tmp_path):
    """Shards of which sample 5 has a flipped byte."""
    pattern = make_shards(tmp_path, (30, 17, 23))
    damage(tmp_path)
    return pattern


def test_only_replacements_of_consumed_steps_count(damaged):
    loader = ModalityLoader(own(small_config(damaged, workers=1, prefetch=8)), 0, 1)
    counts = []
    for step in islice(loader.steps(0), 8):
        assert sum(map(len, step)) == 8
        counts.append(loader.bad_samples)
    assert counts[-1] == 1 and sorted(counts) == counts


def test_kinds_of_bad_samples(damaged):
    loader = open_loader(small_config(damaged), 0, 1)
    for _ in islice(loader.steps(0), 8):
        pass
    assert loader.bad_kinds == {"checksum": 1}


def test_counts_of_an_earlier_process_are_carried_on(damaged):
    config = small_config(damaged, max_bad_samples=1, max_bad_fraction=0.01)
    first, second = (ModalityLoader(own(config), 0, 1) for _ in range(2))
    for _ in islice(first.steps(0), 8):
        pass
    assert first.bad_counts == (1, 64)
    second.restore_bad_counts(*first.bad_counts)
    assert second.bad_samples == 1 and second.state_dict(8) == first.state_dict(8)
    with pytest.raises(ValueError, match=r"^2 of \d+ samples could not be used"):
        for _ in islice(second.steps(0), 8):
            pass
    assert second.bad_counts[0] == 2 and second.bad_counts[1] > 64


@pytest.mark.parametrize("workers", [0, 1])
def test_past_the_cap_the_run_stops_and_the_cause_is_named(damaged, workers):
    config = small_config(damaged, workers=workers, max_bad_samples=0, max_bad_fraction=0.01)
    with pytest.raises(ValueError, match=r"data\.max_bad_samples=0.*train-000000\.tar, key '000005'.*checksum"):
        for _ in islice(ModalityLoader(own(config), 0, 1).steps(0), 8):
            pass
