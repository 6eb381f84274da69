"""Rows of a part's results, one JSON object a line, written as they come: a killed part keeps what it had."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any


class Recorder:
    """Appends rows to OUT/PART.jsonl, and prints them."""

    def __init__(self, out: Path, part: str) -> None:
        self.file = out / f"{part}.jsonl"
        self._start = time.perf_counter()

    def row(self, case: str, **figures: Any) -> None:
        """Add a row; numbers keep four digits."""
        row = {"case": case, **{name: _rounded(value) for name, value in figures.items()}}
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"[{time.perf_counter() - self._start:5.1f} s] {json.dumps(row)}", flush=True)

    def done(self) -> set[str]:
        """Cases that have a row."""
        return {row["case"] for row in rows(self.file)}


def rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a file; none if it is not there."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
