"""Columns of Parquet files and their values, with reasons where they cannot be read."""

from __future__ import annotations

import pyarrow

from data_shards.sources.units import Unusable

PARQUET_ERRORS = (pyarrow.ArrowException, OSError, UnicodeDecodeError, KeyError, IndexError)
"""Errors of reading a Parquet file."""


def one_line(error: BaseException) -> str:
    """Text of an error on one line, or its name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def check_column(schema: pyarrow.Schema, name: str, key: str) -> None:
    """Raise Unusable if a table has no column of this name, or several."""
    if schema.names.count(name) != 1:
        many = "several columns" if name in schema.names else "no column"
        raise Unusable(f"{many} {name!r}; set {key}=COLUMN", f"it has {', '.join(schema.names)}")


def value_of(scalar: pyarrow.Scalar) -> object:
    """Value of a Parquet field. Raises Unusable if it has none in Python, as a string that is not UTF-8."""
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        raise Unusable("not UTF-8", f"{error.reason} {error.start} bytes into it") from None
    except (ValueError, OverflowError, pyarrow.ArrowException) as error:  # as a time after the year 9999
        raise Unusable("a value that cannot be read", one_line(error)) from None
