"""Values of Parquet that Python cannot hold are reasons, not errors."""

import pyarrow
import pytest

from data_shards.sources.tables.fields import check_column, one_line, value_of
from data_shards.sources.units import Unusable


def test_a_value_that_cannot_be_read_has_a_reason():
    late = pyarrow.array([2**62], pyarrow.timestamp("s"))
    with pytest.raises(Unusable, match="a value that cannot be read"):
        value_of(late[0])
    broken = pyarrow.array([b"\xff"]).view(pyarrow.string())
    with pytest.raises(Unusable, match="not UTF-8"):
        value_of(broken[0])
    assert value_of(pyarrow.array([3])[0]) == 3


def test_columns_that_are_missing_or_there_twice_are_named():
    schema = pyarrow.schema([("a", pyarrow.int8()), ("a", pyarrow.int8())])
    for name, reason in (("a", "several columns 'a'"), ("b", "no column 'b'")):
        with pytest.raises(Unusable, match=f"{reason}; set data_field=COLUMN"):
            check_column(schema, name, "data_field")


def test_errors_are_told_on_one_line():
    assert one_line(ValueError("a\n  b")) == "a b" and one_line(KeyError()) == "KeyError"
