"""Exit codes: the most telling one, and notes of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pretrain.launching import exits


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([0, 0], 0), ([76, 2, 1], 2), ([1, 77, 76], 77), ([75, 1], 1), ([76, 75], 75), ([0, 76], 76)],
)
def test_the_code_of_a_run_follows_the_precedence(codes: list[int], expected: int) -> None:
    assert exits.run_code(codes) == expected


def test_the_first_note_of_a_process_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(exits.NOTES, str(tmp_path / "notes"))
    exits.note(exits.MISTAKE)
    exits.note(exits.STOPPED)
    assert exits.read_notes(tmp_path / "notes") == {os.getpid(): exits.MISTAKE}
    assert exits.read_notes(tmp_path / "none") == {}
