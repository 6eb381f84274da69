"""Exit codes: the most telling one, and notes of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data_shards.loading.modality_loader import LoaderFailed
from data_shards.processes import ProcessLost
from data_shards.shards.storage import Unreachable
from pretrain.engine.distributed import PeerLost
from pretrain.launching import exits


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([0, 0], 0), ([76, 2, 1], 2), ([1, 77, 76], 77), ([75, 1], 1), ([76, 75], 75), ([0, 76], 76)],
)
def test_the_code_of_a_run_follows_the_precedence(codes: list[int], expected: int) -> None:
    assert exits.run_code(codes) == expected


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (exits.Halted("20 bad steps"), exits.HALTED),
        (Unreachable("the store is away"), exits.STALLED),
        (ProcessLost("killed"), exits.STALLED),
        (LoaderFailed("killed"), exits.STALLED),
        (PeerLost("gone"), exits.STALLED),
        (KeyboardInterrupt(), exits.STOPPED),
        (ValueError("optimizer.lr=x"), exits.MISTAKE),
        (OSError("No space left on device"), exits.FAILED),
        (KeyError("a bug"), exits.FAILED),
    ],
)
def test_every_error_has_its_code(error: BaseException, code: int) -> None:
    assert exits.code_of(error) == code


def test_the_first_note_of_a_process_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(exits.NOTES, str(tmp_path / "notes"))
    exits.note(exits.MISTAKE)
    exits.note(exits.STOPPED)
    assert exits.read_notes(tmp_path / "notes") == {os.getpid(): exits.MISTAKE}
    assert exits.read_notes(tmp_path / "none") == {}
