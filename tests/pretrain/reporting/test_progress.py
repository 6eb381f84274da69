"""Progress: lines in a log file, a bar on a terminal."""

import io
import re

from pretrain.reporting.progress import Progress


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
