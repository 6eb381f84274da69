"""RUN/metrics.jsonl: the file that keeps the rows of a run through kills and restarts, and its readers."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_shards.files import replace_text
from pretrain.reporting.metrics import MetricsRow, ProbeResult

log = logging.getLogger(__name__)


class MetricsFile:
    """Append-only JSON lines, one write per row. Only rank 0 opens the file.

    A run that resumes at `resume_step` keeps the rows up to that step and removes later ones, so that each step has one
    row. At 0 the run starts anew and keeps no row. Rows that do not fit on a full disk stay in memory until there is
    room: metrics are no reason to end a run.
    """

    def __init__(self, path: Path, resume_step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        keep_rows(path, resume_step)
        self._file = path.open("ab", buffering=0)
        self._unwritten = b""

    def write(self, row: MetricsRow) -> None:
        """Append the row of a step. Fields that are None are left out, except `mfu`."""
        self._append({key: value for key, value in asdict(row).items() if key == "mfu" or value is not None})

    def write_probe(self, step: int, result: ProbeResult) -> None:
        """Append the row of a probe taken after `step` steps (0: the untrained network)."""
        self._append({"step": step, **asdict(result)})

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        self._file.close()

    def _append(self, row: dict[str, Any]) -> None:
        had_room = not self._unwritten
        self._unwritten += _line(row).encode()
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[self._file.write(self._unwritten) :]
        except OSError as error:
            if had_room:
                log.warning("%s cannot be written (%s): its rows wait for room", self._file.name, error.strerror)


def keep_rows(path: Path, resume_step: int) -> None:
    """Remove the rows of steps after `resume_step`, which are taken again; at 0 all of them.

    The file need not exist. Raises OSError.
    """
    if path.exists():
        rows = read_rows(path)
        kept = [row for row in rows if resume_step > 0 and row["step"] <= resume_step]
        replace_text(path, "".join(map(_line, kept)))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics file, without half-written lines. Raises OSError if the file cannot be read."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [row for row in map(_parse, lines) if row is not None]


def probed_modalities(path: Path, step: int) -> set[str]:
    """Modalities that were probed after `step` steps, according to a metrics file; none if it does not exist."""
    rows = read_rows(path) if path.is_file() else []
    return {row.get("modality", "vision") for row in rows if "knn_top1" in row and row["step"] == step}


def _parse(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _line(row: dict[str, Any]) -> str:
    """Line of strict JSON. A float that is not finite becomes null, which every reader accepts."""
    return json.dumps(_finite(row), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """None for a float that is not finite, else `value`; in a dict, applied to each value."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
