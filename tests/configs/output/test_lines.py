"""Lines beside a bar, in any locale, without credentials."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tqdm import tqdm

from configs.output.lines import say

ROOT = Path(__file__).parents[3]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.pieces = [*getattr(self, "pieces", []), text]
        return super().write(text)


def shown(terminal: Terminal) -> list[str]:
    """Lines as a terminal shows them: each ends what the last carriage return and erasure have left."""
    lines = [line.rsplit("\033[K", 1)[-1] for line in terminal.getvalue().split("\n")]
    return [line.rsplit("\r", 1)[-1].rstrip() for line in lines]


def test_a_line_replaces_the_bar_of_another_process_in_one_piece() -> None:
    terminal = Terminal()
    terminal.write(" 10%|###   | 1/10")  # of another process: this one knows nothing of it
    say("WARNING a bad sample", terminal)
    assert shown(terminal) == ["WARNING a bad sample", ""]
    assert "\r\033[KWARNING a bad sample\n" in terminal.pieces, "a bar could come between two pieces"


def test_the_bar_of_this_process_goes_on_below() -> None:
    terminal = Terminal()
    with tqdm(total=10, file=terminal, ncols=40) as bar:
        bar.update(1)
        say("WARNING a bad sample", terminal)
        assert "WARNING a bad sample" in shown(terminal)
        assert re.match(r" +\d+%\|", shown(terminal)[-1])


def test_a_log_gets_the_line_alone_and_a_closed_stream_nothing() -> None:
    log = io.StringIO()
    say("a line", log)
    assert log.getvalue() == "a line\n"

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    say("a line", Closed())


CODE = r"""
import logging, sys, warnings
from configs.output.lines import prepare_lines
prepare_lines()
print("\xe9")
logging.getLogger("a").warning("b\xe9 https://me:hush@h/x")
warnings.warn("c\xe9", stacklevel=2)
raise KeyError("d\xe9 https://me:hush@h/x")
"""


@pytest.mark.parametrize("locale", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_any_locale_and_no_credentials(locale: dict[str, str]) -> None:
    environment = {**os.environ, **locale, "PYTHONCOERCECLOCALE": "0"}
    ended = subprocess.run([sys.executable, "-c", CODE], env=environment, cwd=ROOT, capture_output=True)
    out, err = ended.stdout.decode("ascii"), ended.stderr.decode("ascii")
    assert (ended.returncode, out) == (1, "\\xe9\n")
    assert err.startswith("WARNING b\\xe9 https://***@h/x\nWARNING ") and "UserWarning: c\\xe9" in err
    assert "Traceback" in err and "hush" not in err.replace(CODE, "")


def test_ctrl_c_is_an_exception_again_once_a_command_has_begun() -> None:
    code = "import signal; signal.signal(2, {}); from configs.output.lines import prepare_lines; prepare_lines(); "
    code += "print(signal.getsignal(2) is signal.default_int_handler)"
    for before, after in (("signal.SIG_DFL", "True"), ("signal.SIG_IGN", "False")):
        command = [sys.executable, "-c", code.format(before)]
        assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip() == after
