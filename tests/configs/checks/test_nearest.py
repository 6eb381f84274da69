"""The nearest name."""

import pytest

from configs.checks.nearest import nearest, unknown_choice, unknown_key

KEYS = ["optimizer.lr", "schedule.lr_end", "train.steps", "schedule.steps", "data.shards"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("lr", "optimizer.lr"), ("steps", "train.steps"), ("optimizer.lrr", "optimizer.lr"), ("shard", "data.shards"),
     ("zzz", None)],
)  # fmt: skip
def test_the_same_last_part_or_the_nearest_spelling(name: str, meant: str | None) -> None:
    assert nearest(name, KEYS) == meant


def test_errors_name_the_remedy() -> None:
    assert str(unknown_key("lr", KEYS)) == "unknown key 'lr': did you mean 'optimizer.lr'?"
    assert str(unknown_key("zzz", KEYS)) == "unknown key 'zzz': --help lists the keys"
    assert str(unknown_choice("model", "tny", ["base", "tiny"])) == "unknown model 'tny': one of base, tiny"
