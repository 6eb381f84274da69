"""Members are found by their extensions, gzip or not, and values inside JSON by their names."""

import gzip
import json

import pytest

from data_shards.sources.tars.fields import Field
from data_shards.sources.units import Unusable

MEMBERS = {
    "jpg.gz": gzip.compress(b"1"),
    "png": b"2",
    "json": json.dumps({"Label": 3, "meta": {"text": "said"}, "none": None}).encode(),
    "meta.json.gz": gzip.compress(b'{"label": "cat"}'),
    "bad.json": b"{",
}


@pytest.mark.parametrize(
    "names, found",
    [
        ("jpg;png", ("jpg", b"1")),
        ("gif;PNG", ("PNG", b"2")),
        ("json.Label", ("json.Label", 3)),
        ("json.meta.text", ("json.meta.text", "said")),
        ("cls;meta.json.label", ("meta.json.label", "cat")),
        ("json.none;png", ("png", b"2")),
        ("json.meta.text.more", None),
        ("gif", None),
    ],
)
def test_the_first_that_is_there_is_found(names, found):
    assert Field.of(names).find(MEMBERS) == found


def test_defaults_and_words():
    assert (
        Field.of("", "txt", "text").names == ("txt", "text")
        and str(Field.of("cls;json.label")) == ".cls or .json.label"
    )
    with pytest.raises(Unusable, match="not JSON"):
        Field.of("bad.json.label").find(MEMBERS)
