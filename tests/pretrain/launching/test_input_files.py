"""Files that a configuration names and that are not there."""

from pathlib import Path

import pytest

from data_shards.making.indexer import index_shards
from pretrain.launching import input_files
from pretrain.launching.input_files import check_input_files
from tests.data_shards.shard_tools import make_shards
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


def test_a_folder_of_several_names_and_samples_that_are_not_held_out_are_refused(tmp_path: Path) -> None:
    make_shards(tmp_path / "data", (4, 4))
    run = f"run.dir={tmp_path}/run"
    check_input_files(config(REAL, f"data.shards={tmp_path}/data", run), resumes=False)
    probed = [f"data.shards={tmp_path}/data/train-000000.tar", f"probe.train_shards={tmp_path}/data/train-000000.tar"]
    test = f"probe.test_shards={tmp_path}/data/train-000001.tar"
    check_input_files(config(REAL, *probed, test, run), resumes=False)
    with pytest.raises(ValueError, match="probe.test_shards are not held out: .* is in probe.train_shards too"):
        check_input_files(config(REAL, *probed, f"probe.test_shards={tmp_path}/data", run), resumes=False)
    for file in ("tar", "idx.npy"):
        (tmp_path / "data" / f"train-000001.{file}").rename(tmp_path / "data" / f"val-000001.{file}")
    index_shards(f"{tmp_path}/data/*.tar")
    with pytest.raises(ValueError, match=f"{tmp_path}/data holds shards of several names: .*/data/train-"):
        check_input_files(config(REAL, f"data.shards={tmp_path}/data", run), resumes=False)
