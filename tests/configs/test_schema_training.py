"""Lists of shards as a command line writes them, and values out of bounds."""

import pytest

from configs.compose import compose_pretrain
from configs.schema_training import DataConfig


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("/a/train-{000000..000003}.tar", "/a/train-{000000..000003}.tar"),
        ("[/a,/b]", ("/a", "/b")),
        ("[/a/{x,y}.tar, '/b c/*.tar']", ("/a/{x,y}.tar", "/b c/*.tar")),
        ("[/a]", ("/a",)),
        ("", ""),
        (("/a", "/b"), ("/a", "/b")),
    ],
)
def test_shards_are_a_pattern_or_a_list_of_them(written: object, meant: object) -> None:
    assert DataConfig(shards=written).shards == meant


def test_commas_within_braces_do_not_part_a_list() -> None:
    assert compose_pretrain(["recipe=demo", "data.shards=[/a/{1,{2,3}}.tar,/b]"]).data.shards == (
        "/a/{1,{2,3}}.tar",
        "/b",
    )


@pytest.mark.parametrize(
    "override",
    ["model.layers=0", "model.width=7", "model.dropout=1", "batch.micro=0", "data.workers=-1", "data.cache_gb=0",
     "data.max_bad_fraction=2", "data.weights=[1,0]"],
)  # fmt: skip
def test_values_out_of_bounds_are_refused_by_key(override: str) -> None:
    with pytest.raises(ValueError, match=f"^{override.partition('=')[0]}"):
        compose_pretrain([override])
