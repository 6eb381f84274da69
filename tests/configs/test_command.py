"""What commands share: exit codes, and a line for each mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs.command import Temporary, fail, run
from configs.schema_commands import ExportConfig


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("first\nsecond"), 2, "error: first\nerror: second\n"),
        (Temporary("the store is away"), 76, "error: the store is away\n"),
        (FileNotFoundError(2, "No such file", "x"), 2, "error: x: No such file: check the path\n"),
        (
            PermissionError(13, "Permission denied", "x"),
            2,
            "error: x: Permission denied: change its permissions, or give another path\n",
        ),
        (
            OSError(39, "Directory not empty", "x.tmp", None, "x"),
            2,
            "error: x: Directory not empty: give another path\n",
        ),
        (OSError(5, "Input/output error", "x"), 1, "error: x: Input/output error\n"),
        (OSError(13, "Permission denied"), 1, "error: [Errno 13] Permission denied\n"),
        (
            OSError(28, "No space left on device", "out/x.tar"),
            1,
            "error: out/x.tar: No space left on device: make room there, or choose another folder; then give the same "
            "command\n",
        ),
        (KeyboardInterrupt(), 130, "error: interrupted: give the same command again\n"),
    ],
)
def test_what_fails_has_its_code_and_its_lines(error: BaseException, code: int, said: str, capsys) -> None:
    def command(config: ExportConfig) -> None:
        assert config.run == "x"
        raise error

    with pytest.raises(SystemExit) as end:
        run(ExportConfig, command, ["run=x", "out=y"])
    assert end.value.code == code and capsys.readouterr().err == said


def test_a_wrong_command_line_is_code_2_and_the_command_does_not_begin(capsys) -> None:
    with pytest.raises(SystemExit) as end:
        run(ExportConfig, lambda config: pytest.fail("it began"), ["run=x", "outt=y"])
    assert end.value.code == 2
    assert "unknown key 'outt': did you mean 'out'?" in capsys.readouterr().err


def test_commands_run_with_threads_that_sleep_while_they_wait(monkeypatch) -> None:
    seen = []
    for given in (None, "ACTIVE"):
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        if given:
            monkeypatch.setenv("OMP_WAIT_POLICY", given)
        run(ExportConfig, lambda config: seen.append(os.environ["OMP_WAIT_POLICY"]), ["run=x", "out=y"])
    assert seen == ["PASSIVE", "ACTIVE"]


def test_no_command_imports_torch_before_its_threads_are_told_to_sleep() -> None:
    modules = (
        "configs.command, data_shards.__main__, pretrain.probe, pretrain.export, pretrain.reshard, pretrain.launch"
    )
    code = f"import sys; import {modules}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_bugs_keep_their_traceback() -> None:
    def command(config: ExportConfig) -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        run(ExportConfig, command, ["run=x", "out=y"])


def test_the_output_stays_clean(capsys) -> None:
    with pytest.raises(SystemExit) as end:
        fail("no", 7)
    assert end.value.code == 7 and capsys.readouterr().out == ""


def test_a_reader_that_has_seen_enough_ends_a_command_without_a_word() -> None:
    code = "from configs.command import run; from configs.schema_commands import IndexConfig\n"
    code += "run(IndexConfig, lambda config: print(config.shards), ['shards=x'])"
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=-1, cwd=Path(__file__).parents[2])
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (-13, b"")
