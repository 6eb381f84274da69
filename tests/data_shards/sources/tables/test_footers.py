"""Footers at which pyarrow ends the process: the file is left out by name."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from configs.schema_commands import BuildConfig
from data_shards.making.build import build
from data_shards.shards.index import load_index
from data_shards.sources.tables.fields import PARQUET_ERRORS
from data_shards.sources.tables.footers import _Child, read_footer
from tests.data_shards.sources.test_texts import article

LIST = 9
"""Thrift's type of a list, the lower half of a field's header; the upper half says which field it is. The histograms of
a column are lists, whose lengths pyarrow checks too late to raise."""
TABLE = pyarrow.table({"text": [article(i) for i in range(20)]})


def same_schema(one: Path, other: Path) -> bool:
    try:
        return parquet.read_schema(one).equals(parquet.read_schema(other), check_metadata=True)
    except PARQUET_ERRORS:
        return False


def deadly(good: Path, bad: Path) -> None:
    """Copy a file with one changed byte at which pyarrow ends the process, though the columns' types are the same."""
    data, child = good.read_bytes(), _Child()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    for place in (place for place in range(footer, len(data) - 8) if data[place] & 0xF == LIST):
        flipped = bytearray(data)
        flipped[place] = LIST
        bad.write_bytes(flipped)
        if same_schema(good, bad) and not child.survives(str(bad)):
            child.close()
            return
    raise AssertionError("pyarrow raises at each of these bytes: is read_footer still needed?")


def test_a_build_goes_on_without_the_file_and_names_it(tmp_path):
    files = tmp_path / "in"
    files.mkdir()
    parquet.write_table(TABLE, files / "good.parquet")
    deadly(files / "good.parquet", files / "bad.parquet")
    output = tmp_path / "out"
    lines = build(BuildConfig(source="parquet", input=str(files), output=str(output), workers=1))
    assert load_index(str(output)).samples == 20
    told = "\n".join(lines)
    assert f"{files}/bad.parquet" in told and "its footer is damaged: pyarrow cannot read" in told


def test_a_good_footer_is_read_after_a_deadly_one(tmp_path):
    parquet.write_table(TABLE, tmp_path / "good.parquet")
    deadly(tmp_path / "good.parquet", tmp_path / "bad.parquet")
    with pytest.raises(pyarrow.ArrowInvalid, match="footer is damaged"):
        read_footer(str(tmp_path / "bad.parquet"))
    assert read_footer(str(tmp_path / "good.parquet")).num_rows == 20
