"""Files that a configuration names and that are not there."""

from pathlib import Path

import pytest

from pretrain.launching import input_files
from pretrain.launching.input_files import check_input_files
from tests.pretrain.launching.test_plan import REAL, config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "data.shards is empty: give data.shards=PATTERN"),
        (["data.shards=/nowhere/x-*.tar", "run.dir=x"], "/nowhere/x-\\*.tar"),
        (["recipe=mixture_base"], "vision, which has no shards: set mixture.vision.shards=PATTERN mixture.speech."),
    ],
)
def test_missing_files_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_input_files(config(REAL, *overrides), resumes=False)


def test_a_missing_start_and_a_missing_folder_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_files, "resolve", lambda shards, folders: [])
    with pytest.raises(ValueError, match="run.dir is empty"):
        check_input_files(config(REAL, "data.shards=x"), resumes=False)
    with pytest.raises(ValueError, match="init=/nowhere: no such folder"):
        check_input_files(config(REAL, "data.shards=x", f"run.dir={tmp_path}", "init=/nowhere"), resumes=False)
    check_input_files(config(REAL, "data.shards=x", f"run.dir={tmp_path}", "init=/nowhere"), resumes=True)
