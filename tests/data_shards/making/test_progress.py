import time

import pytest

from data_shards.making import progress as progress_module
from data_shards.making.build import _begun_bytes
from data_shards.making.progress import Progress


def test_a_log_gets_a_line_from_time_to_time(monkeypatch, capsys):
    monkeypatch.setattr(progress_module, "_LOG_S", 0.05)
    progress = Progress("train", 4 << 20, 4, begun=lambda: 1 << 19)
    progress.add(1 << 20, 10)  # before
    with progress:
        progress.add(1 << 20, 1000)
        time.sleep(0.3)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("train:  62%") and "2.50M/4.00M" in line and "B/s" in line
    assert line.endswith("shards 2/4, 1,010 samples]")


def test_a_short_command_is_quiet_in_a_log(capsys):
    with Progress("train", 100, 1) as progress:
        progress.add(100, 1)
    assert capsys.readouterr().err == ""


def test_the_bar_ends_at_the_end(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress("train", 2048, 2) as progress:
        progress.add(1024, 3)
        progress.add(1024, 4)
    assert "2.00k/2.00k" in (shown := capsys.readouterr().err.split("\r")[-1]) and "shards 2/2, 7 samples" in shown


def test_an_error_passes(capsys):
    with pytest.raises(ValueError, match="as it was"), Progress("train", 1, 1):
        raise ValueError("as it was")


def test_what_is_being_written_counts_up_to_its_plan(tmp_path):
    for name, size in (("a-0.tar.tmp", 300), ("a-1.tar.tmp", 50), ("other.tar.tmp", 9), ("a-2.tar", 70)):
        (tmp_path / name).write_bytes(bytes(size))
    assert _begun_bytes(tmp_path, {"a-0.tar": 100, "a-1.tar": 100, "a-2.tar": 100}) == 150
