"""What commands share: exit codes, and a line for each mistake."""

import pytest

from configs.command import fail, run
from configs.schema_commands import ExportConfig


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("first\nsecond"), 1, "error: first\nerror: second\n"),
        (FileNotFoundError(2, "No such file", "x"), 1, "error: [Errno 2] No such file: 'x'\n"),
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


def test_bugs_keep_their_traceback() -> None:
    def command(config: ExportConfig) -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        run(ExportConfig, command, ["run=x", "out=y"])


def test_the_output_stays_clean(capsys) -> None:
    with pytest.raises(SystemExit) as end:
        fail("no", 7)
    assert end.value.code == 7 and capsys.readouterr().out == ""
