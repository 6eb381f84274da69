"""The progress of shards, bytes and steps: a bar on a terminal, lines in a log."""

import io
import os
import re
import time

import pytest

from data_shards import progress as progress_module
from data_shards.making.build import _begun_bytes
from data_shards.progress import bytes_progress, samples_progress, shards_progress, steps_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_from_time_to_time(monkeypatch, capsys):
    monkeypatch.setattr(progress_module, "_SHARDS_LINE_S", 0.05)
    progress = shards_progress("train", 4 << 20, 4, begun=lambda: 1 << 19)
    progress.add(1 << 20, 10)  # before
    with progress:
        progress.add(1 << 20, 1000)
        time.sleep(0.3)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("train:  62%") and "2.50M/4.00M" in line and "B/s" in line
    assert line.endswith("shards 2/4, 1,010 samples]")


def test_a_short_command_is_quiet_in_a_log(capsys):
    with shards_progress("train", 100, 1) as progress:
        progress.add(100, 1)
    assert capsys.readouterr().err == ""


def test_the_bar_ends_at_the_end(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with shards_progress("train", 2048, 2) as progress:
        progress.add(1024, 3)
        progress.add(1024, 4)
    assert "2.00k/2.00k" in (shown := capsys.readouterr().err.split("\r")[-1]) and "shards 2/2, 7 samples" in shown


def test_an_error_passes(capsys):
    with pytest.raises(ValueError, match="as it was"), shards_progress("train", 1, 1):
        raise ValueError("as it was")


def test_what_is_being_written_counts_up_to_its_plan(tmp_path):
    for name, size in (
        ("a-0.tar.data2vec-tmp", 300),
        ("a-1.tar.data2vec-tmp", 50),
        ("other.tar.data2vec-tmp", 9),
        ("a-2.tar", 70),
    ):
        (tmp_path / name).write_bytes(bytes(size))
    assert _begun_bytes(tmp_path, {"a-0.tar": 100, "a-1.tar": 100, "a-2.tar": 100}) == 150


def test_progress_in_a_log_file_is_a_line_now_and_then():
    stream = io.StringIO()
    progress = steps_progress(first=10, total=1000, every_s=3600, stream=stream)
    for step in range(11, 1001):
        progress.update(step, "loss 0.2500, 12.5 samples/s")
    progress.close()
    (first,) = stream.getvalue().splitlines()
    assert re.fullmatch(r"step 11/1000, loss 0.2500, 12.5 samples/s, [\d:]+ left", first)


def test_a_line_of_the_caller_takes_the_place_of_the_next_one():
    stream = io.StringIO()
    progress = steps_progress(first=0, total=9, every_s=3600, stream=stream)
    progress.postpone()
    progress.update(1, "loss 0.2500")
    progress.close()
    assert stream.getvalue() == ""


def test_the_time_on_a_bar_moves_while_a_step_lasts(monkeypatch):
    monkeypatch.setattr(progress_module, "_REFRESH_S", 0.02)
    stream = Terminal()
    progress = steps_progress(first=0, total=9, stream=stream)
    before = len(stream.getvalue())
    time.sleep(0.3)
    assert len(stream.getvalue()) > before
    progress.close()


def test_progress_on_a_terminal_is_a_bar():
    stream = Terminal()
    progress = steps_progress(first=90, total=100, stream=stream)
    progress.update(95, "loss 0.2500, 12.5 samples/s")
    progress.say("a warning")
    progress.update(100, "loss 0.1250, 12.5 samples/s")
    progress.close()
    assert "100/100" in stream.getvalue() and "loss 0.1250" in stream.getvalue()
    assert "\r\x1b[Ka warning\n" in re.sub(" +\r", "\r", stream.getvalue())


def test_progress_that_is_off_still_says_warnings():
    stream = io.StringIO()
    progress = steps_progress(first=0, total=1, shown=False, stream=stream)
    progress.update(1, "loss 1.0000, 1.0 samples/s")
    progress.say("a warning")
    assert stream.getvalue() == "a warning\n"


def test_bytes_in_a_log_are_a_line_at_the_start_and_then_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(progress_module, "_BYTES_LINE_S", 0.05)
    with bytes_progress("loading", 4096) as progress:
        progress.advance(1024)
        time.sleep(0.1)
        progress.advance(1024)
    assert capsys.readouterr().err == "loading, 4.00kB\nloading: 50%\n"
    with bytes_progress("loading", 4096, shown=False) as progress:
        progress.advance(4096)
    assert capsys.readouterr().err == ""


def test_bytes_on_a_terminal_are_a_bar(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with bytes_progress("loading", 4096) as progress:
        progress.advance(4096)
    assert "loading: 100%" in (shown := capsys.readouterr().err.split("\r")[-1]) and "4.00k/4.00k" in shown


def test_the_clock_of_every_bar_ticks_while_the_caller_waits(monkeypatch):
    monkeypatch.setattr(progress_module, "_REFRESH_S", 0.02)
    for make in (bytes_progress, samples_progress):
        screen = Terminal()
        monkeypatch.setattr("sys.stderr", screen)
        with make("loading", 4096):
            time.sleep(0.3)
            ticks = screen.getvalue().count("\r")
        assert ticks > 5
    progress = steps_progress(first=0, total=9, stream=(screen := Terminal()))
    time.sleep(0.3)
    assert screen.getvalue().count("\r") > 5
    progress.close()


def test_a_bar_that_is_updated_while_it_ticks_ends_where_it_is(monkeypatch):
    monkeypatch.setattr(progress_module, "_REFRESH_S", 0.0001)
    progress = steps_progress(first=0, total=3000, stream=(screen := Terminal()))
    for step in range(1, 3001):
        progress.update(step, "loss 1")
    progress.close()
    assert "3000/3000" in screen.getvalue().split("\r")[-1]


def test_a_terminal_that_does_not_know_its_size_gets_a_bar():
    ours, theirs = os.openpty()  # 0 columns
    with os.fdopen(theirs, "w") as terminal, os.fdopen(ours, "rb") as screen:
        progress = steps_progress(first=0, total=100, stream=terminal)
        progress.update(50, "loss 0.2500")
        progress.close()
        assert b"50/100" in screen.read1()
