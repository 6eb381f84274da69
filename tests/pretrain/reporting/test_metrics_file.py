"""metrics.jsonl through kills and restarts."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

from pretrain.reporting.metrics import MetricsRow, ProbeResult
from pretrain.reporting.metrics_file import MetricsFile, keep_rows, read_rows

OPTIONAL = {f.name for f in fields(MetricsRow) if f.default is None}
NUMBERS = {f.name: 0.5 for f in fields(MetricsRow) if f.name not in OPTIONAL | {"step", "modality"}}
ROW = MetricsRow(step=1, modality="vision", **NUMBERS)
PROBE = ProbeResult("vision", 0.5, 0.6, 0.7, 0.8, k=20, train_samples=50, test_samples=20)


def steps(path: Path) -> list[int]:
    return [row["step"] for row in read_rows(path)]


def write(path: Path, resume_step: int, numbers: range) -> None:
    file = MetricsFile(path, resume_step)
    for step in numbers:
        file.write(replace(ROW, step=step))
    file.close()


def test_rows_hold_every_field_and_are_strict_json(tmp_path):
    file = MetricsFile(tmp_path / "run" / "metrics.jsonl", 0)
    file.write(replace(ROW, loss=float("nan"), grad_norm=float("inf"), mfu=None))
    file.write_probe(1, PROBE)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()  # before close: a row is flushed at once
    row, probe = (json.loads(line, parse_constant=refuse) for line in lines)
    assert set(row) == {f.name for f in fields(MetricsRow)} - OPTIONAL
    assert row["loss"] is None and row["grad_norm"] is None and row["mfu"] is None and row["lr"] == 0.5
    assert probe == {"step": 1, **asdict(PROBE)}
    file.write(replace(ROW, loss_scale=1024.0, bad_kinds={"decode": 2}, cache_hits=None))
    last = read_rows(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["loss_scale"] == 1024 and last["bad_kinds"] == {"decode": 2} and "cache_hits" not in last


def test_what_was_measured_of_modules_is_strict_json_too(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl", 0)
    std, rank = {"student.blocks.0": 0.5, "student.blocks.1": float("nan")}, {"student.blocks.0": 9.5}
    file.write(replace(ROW, module_std=std, module_rank=rank))
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    [row] = read_rows(tmp_path / "metrics.jsonl")
    assert row["module_std"] == {**std, "student.blocks.1": None} and row["module_rank"] == rank


def test_resume_drops_the_rows_beyond_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, 0, range(1, 8))
    write(path, 5, range(6, 9))
    assert steps(path) == [1, 2, 3, 4, 5, 6, 7, 8]
    write(path, 0, range(1, 3))  # no checkpoint was found: the run starts anew
    assert steps(path) == [1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_resume_repairs_a_half_written_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, 0, range(1, 4))
    path.write_bytes(path.read_bytes()[:-25])
    assert steps(path) == [1, 2]
    write(path, 2, range(3, 5))
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


def test_resume_keeps_the_old_file_when_it_is_killed_while_rewriting(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    write(path, 0, range(1, 4))
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        MetricsFile(path, 2)
    assert steps(path) == [1, 2, 3]


def test_a_killed_process_leaves_every_row_it_wrote(tmp_path):
    path = tmp_path / "metrics.jsonl"
    code = (
        "import os, signal; from pathlib import Path; from tests.pretrain.reporting.test_metrics_file import *\n"
        f"file = MetricsFile(Path({str(path)!r}), 0)\n"
        "for step in range(1, 6): file.write(replace(ROW, step=step))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert killed.returncode == -signal.SIGKILL
    assert steps(path) == [1, 2, 3, 4, 5]


class FullDisk(io.RawIOBase):
    """A file that takes so many bytes more."""

    name = "metrics.jsonl"

    def __init__(self, file, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self.file.write(data[: self.room])
        self.room -= written
        return written


def test_rows_that_a_full_disk_does_not_take_wait_for_room(tmp_path, caplog):
    metrics = MetricsFile(tmp_path / "metrics.jsonl", 0)
    metrics.write(ROW)
    metrics._file = disk = FullDisk(metrics._file, room=40)  # in the middle of the next row
    for step in (20, 30):
        metrics.write(replace(ROW, step=step))
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [ROW.step]
    assert caplog.text.count("cannot be written (No space left on device): its rows wait for room") == 1
    disk.room = 10**6
    metrics.write(replace(ROW, step=40))
    disk.file.close()
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [ROW.step, 20, 30, 40]


def test_rows_of_steps_that_are_taken_again_are_dropped_from_any_file_of_steps(tmp_path):
    file = tmp_path / "bad_steps.jsonl"
    keep_rows(file, 5)
    assert not file.exists()
    lines = [f'{{"step": {step}, "kind": "spike", "samples": ["a.tar: x"]}}\n' for step in (4, 5, 6, 9)]
    file.write_text("".join(lines))
    keep_rows(file, 5)
    assert file.read_text() == "".join(lines[:2])
    keep_rows(file, 0)
    assert file.read_text() == ""
