"""Columns of images and recordings are found by Hugging Face's metadata, by {bytes, path}, or by their values."""

import pyarrow
import pytest

from data_shards.sources.tables.columns import class_label_names, features_of, media_columns, modality_of_value
from tests.data_shards.shard_tools import clip, encoded
from tests.data_shards.sources.tables.test_parquet_media import FILES, image, table


def test_metadata_name_columns_and_classes():
    schema = table([(image(0), 0)]).schema
    assert media_columns(schema) == {"image": "vision"}
    assert class_label_names(schema, "label") == ("cat", "dog", "emu") and class_label_names(schema, "image") == ()


@pytest.mark.parametrize("metadata", [None, b"{", b"[]", b'{"info": null}', b'{"info": {"features": [1]}}'])
def test_metadata_of_another_form_are_none(metadata):
    schema = pyarrow.schema({"a": FILES}, metadata={"huggingface": metadata} if metadata else None)
    assert features_of(schema) == {} and media_columns(schema) == {"a": None}


@pytest.mark.parametrize(
    "kind, there",
    [
        (pyarrow.struct({"path": pyarrow.string(), "bytes": pyarrow.large_binary()}), True),
        (pyarrow.struct({"bytes": pyarrow.binary()}), True),
        (pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string(), "x": pyarrow.int8()}), False),
        (pyarrow.struct({"path": pyarrow.string()}), False),
        (pyarrow.struct({"bytes": pyarrow.int64()}), False),
        (pyarrow.binary(), False),
    ],
)
def test_structs_of_bytes_and_path(kind, there):
    assert media_columns(pyarrow.schema({"a": kind})) == ({"a": None} if there else {})


@pytest.mark.parametrize(
    "value, modality",
    [
        ({"bytes": encoded(0), "path": None}, "vision"),
        ({"bytes": clip(0, 3000)}, "speech"),
        (clip(0, 3000), "speech"),
        ("a/b.PNG", "vision"),
        ({"path": "a.mp3"}, "speech"),
        (b"text", None),
        ("text", None),
        ({}, None),
        (None, None),
        (7, None),
    ],
)
def test_values_tell_their_modality(value, modality):
    assert modality_of_value(value) == modality
