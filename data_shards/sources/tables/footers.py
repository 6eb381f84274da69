"""Footers of Parquet files, read safely.

pyarrow ends the process, instead of raising, at some impossible values in a column's part of a damaged footer. So a
child process reads each footer first; if it ends, the file is damaged.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys

import pyarrow
from pyarrow import parquet

_CHECK = """
import json, sys
from pyarrow import parquet
for line in sys.stdin:
    try:
        footer = parquet.read_metadata(json.loads(line))
        for group in range(footer.num_row_groups):
            for column in range(footer.num_columns):
                footer.row_group(group).column(column)
    except Exception:
        pass  # the parent sees it as well, and reports it
    print(flush=True)
"""


class _Child:
    """A process that reads footers, started again after its end."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        atexit.register(self.close)

    def survives(self, path: str) -> bool:
        """True if the process still runs after it has read the footer of `path`."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CHECK], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(path) + "\n")
        self._process.stdin.flush()
        if self._process.stdout.readline():
            return True
        self.close()
        return False

    def close(self) -> None:
        """End the process, which reads until its input ends."""
        if self._process is not None:
            self._process.communicate()
            self._process = None


_CHILD = _Child()


def read_footer(path: str) -> parquet.FileMetaData:
    """Return the footer of a Parquet file, all of whose columns can be asked for. Raises one of PARQUET_ERRORS."""
    if not _CHILD.survives(path):
        raise pyarrow.ArrowInvalid("its footer is damaged: pyarrow cannot read what it says of a column")
    return parquet.read_metadata(path)
