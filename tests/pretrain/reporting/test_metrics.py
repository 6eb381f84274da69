"""metrics.jsonl through kills and restarts, rates, and the progress line."""

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import torch

from data_shards.loading.cost import Cost
from pretrain.reporting.metrics import MetricsFile, MetricsRow, ProbeResult, read_rows
from pretrain.reporting.progress import Progress
from pretrain.reporting.speed import Meter, Peak, Work, gpu_peak, memory_gib, peak

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
        "import os, signal; from pathlib import Path; from tests.pretrain.reporting.test_metrics import *\n"
        f"file = MetricsFile(Path({str(path)!r}), 0)\n"
        "for step in range(1, 6): file.write(replace(ROW, step=step))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert killed.returncode == -signal.SIGKILL
    assert steps(path) == [1, 2, 3, 4, 5]


def test_meter_averages_over_the_steps_since_the_last_row():
    meter = Meter(Peak(32.0, ""))
    meter.add(Work(seconds=1.0, data_wait=0.0, samples=20, tokens=1000, flops=8e12))
    meter.add(Work(seconds=3.0, data_wait=1.0, samples=60, tokens=9000, flops=24e12))
    first = meter.take()
    assert (first.step_s, first.data_wait) == (2, 0.5)
    assert (first.samples_per_s, first.tokens_per_s, first.tflops, first.mfu) == (20, 2500, 8, 0.25)
    meter.add(Work(seconds=1.0, data_wait=0.25, samples=10, tokens=100, flops=1e12))
    assert (second := meter.take()).step_s == 1 and second.data_wait == 0.25 and second.samples_per_s == 10
    unknown = Meter(Peak(None, ""))
    unknown.add(Work(1.0, 0.0, 1, 1, 1e12))
    assert unknown.take().mfu is None


def test_what_loading_cost_per_sample():
    meter = Meter(Peak(None, ""))
    step = Work(seconds=2.0, data_wait=0.5, samples=20, tokens=1, flops=1.0)
    meter.add(replace(step, cost=Cost(10, 0.01, 0.04, 0.02, 3_000_000, 6, 0)))
    meter.add(replace(step, cost=Cost(30, 0.03, 0.36, 0.02, 5_000_000, 1, 1)))
    rates = meter.take()
    assert (rates.data_wait, rates.data_wait_share) == (0.5, 0.25)
    assert [rates.read_ms, rates.decode_ms, rates.batch_ms] == pytest.approx([1, 10, 1])
    assert (rates.read_mb_per_s, rates.cache_hits) == (2, 7 / 8)
    meter.add(step)
    assert meter.take().cache_hits is None, "all shards are local"


@pytest.mark.parametrize(
    ("name", "precision", "tf32", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", False, 989.4),
        ("NVIDIA H100 PCIe", "fp16", False, 756),
        ("NVIDIA H200", "fp32", True, 494.7),
        ("NVIDIA A100-SXM4-80GB", "fp32", False, 19.5),
        ("NVIDIA A10", "bf16", False, 125),
        ("NVIDIA L40S", "bf16", False, 362),
        ("NVIDIA L4", "bf16", False, 121),
        ("Tesla V100-SXM2-32GB", "fp32", True, 15.7),
        ("NVIDIA GeForce RTX 4090", "bf16", False, 165.2),
    ],
)
def test_peak_of_known_gpus(name, precision, tf32, tflops):
    assert gpu_peak(name, precision, tf32).tflops == tflops


def test_peak_of_an_unknown_gpu_names_the_key():
    unknown = gpu_peak("Some GPU 9", "bf16", False)
    assert unknown.tflops is None and "Some GPU 9" in unknown.source and "log.peak_tflops" in unknown.source


def test_peak_of_a_cpu_is_measured_unless_configured():
    measured = peak(torch.device("cpu"), "fp32", None)
    assert measured.tflops is not None and 1e-4 < measured.tflops < 50 and "measured" in measured.source
    assert peak(torch.device("cpu"), "fp32", 7.0) == Peak(7.0, "log.peak_tflops")


def test_memory_counts_what_was_allocated():
    before = memory_gib(torch.device("cpu"))
    held = torch.ones(2**26)  # 0.25 GiB
    assert held.sum() and memory_gib(torch.device("cpu")) > 0.2
    assert memory_gib(torch.device("cpu")) >= before


def test_progress_in_a_log_file_is_a_line_now_and_then():
    stream = io.StringIO()
    progress = Progress(first_step=10, steps=1000, every_s=3600, stream=stream)
    for step in range(11, 1001):
        progress.update(step, loss=0.25, samples_per_s=12.5)
    progress.close()
    first, last = stream.getvalue().splitlines()
    assert re.fullmatch(r"step 11/1000, loss 0.2500, 12.5 samples/s, [\d:]+ left", first)
    assert last == "step 1000/1000, loss 0.2500, 12.5 samples/s, 00:00 left"


def test_progress_on_a_terminal_is_a_bar():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = Progress(first_step=90, steps=100, stream=stream)
    progress.update(95, loss=0.25, samples_per_s=12.5)
    progress.say("a warning")
    progress.update(100, loss=0.125, samples_per_s=12.5)
    progress.close()
    assert "100/100" in stream.getvalue() and "loss 0.1250" in stream.getvalue()
    assert "\ra warning\n" in re.sub(" +\r", "\r", stream.getvalue())


def test_progress_that_is_off_still_says_warnings():
    stream = io.StringIO()
    progress = Progress(first_step=0, steps=1, enabled=False, stream=stream)
    progress.update(1, loss=1.0, samples_per_s=1.0)
    progress.say("a warning")
    assert stream.getvalue() == "a warning\n"


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
