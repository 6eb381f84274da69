import numpy as np
import pytest

from configs.schema_training import DataConfig
from data_shards.loading.bad_samples import BadSampleCount
from data_shards.shards.bad_sample import Report

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
