"""Stages on a terminal and in a log."""

import io
import time

import pytest

from configs.output import stages
from configs.output.lines import CLEAR, say
from configs.output.stages import on_screen, stage


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "WAIT_S", 0.1)
    monkeypatch.setattr(stages, "TICK_S", 0.02)
    monkeypatch.setattr(stages, "LOG_S", 0.1)
    monkeypatch.setattr(stages, "_seen", ["one before"])


def test_a_terminal_has_a_line_that_ticks_and_is_gone_at_the_end() -> None:
    screen = Terminal()
    with stage("loading", stream=screen):
        time.sleep(0.3)
        ticks = screen.getvalue().count("loading: 0 s")
    assert ticks >= 3 and screen.getvalue().endswith(f"loading: 0 s{CLEAR}")
    assert "\n" not in screen.getvalue()


def test_a_short_stage_is_not_seen_unless_it_is_the_first_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for seen, shown in (["one before"], ""), ([], "loading: 0 s"):
        monkeypatch.setattr(stages, "_seen", seen)
        screen = Terminal()
        with stage("loading", stream=screen):
            time.sleep(0.07)
        assert (shown in screen.getvalue()) and bool(screen.getvalue()) is bool(shown)


def test_a_log_gets_lines_and_nothing_of_a_short_stage() -> None:
    log = io.StringIO()
    with stage("short", stream=log):
        pass
    with stage("long", stream=log):
        time.sleep(0.25)
    assert set(log.getvalue().splitlines()) == {"long: 0 s so far"}


def test_stages_and_bars_within_take_the_place() -> None:
    screen = Terminal()
    with stage("outer", stream=screen):
        with stage("inner", stream=screen):
            time.sleep(0.25)
        with on_screen("a bar"):
            before = screen.getvalue()
            time.sleep(0.25)
        assert screen.getvalue() == before and "outer" not in before and "inner: 0 s" in before
        time.sleep(0.25)
    assert "outer: " in screen.getvalue()


def test_an_error_passes_and_the_line_is_gone() -> None:
    screen = Terminal()
    with pytest.raises(ValueError, match="as it was"), stage("loading", stream=screen):
        time.sleep(0.2)
        raise ValueError("as it was")
    assert screen.getvalue().endswith(CLEAR) and not stages._open


def test_lines_begin_where_the_stage_was_drawn() -> None:
    screen = Terminal()
    with stage("loading", stream=screen):
        time.sleep(0.2)
        say("a line", screen)
    assert f"{CLEAR}a line\n" in screen.getvalue()


def test_nothing_is_shown_where_it_is_not_wanted_and_a_closed_stream_is_no_error() -> None:
    screen = Terminal()
    with stage("loading", False, screen):
        time.sleep(0.2)
    assert screen.getvalue() == ""
    with stage("loading", stream=screen):
        screen.close()
        time.sleep(0.2)


def test_a_long_title_stays_on_its_line_and_shows_no_password() -> None:
    screen = Terminal()
    with stage("reading " + "x" * 200 + " https://user:secret@host/x", stream=screen):
        time.sleep(0.2)
    drawn = screen.getvalue().split(CLEAR)
    assert max(map(len, drawn)) == 79 and "secret" not in screen.getvalue()
