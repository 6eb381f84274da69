"""The lock of a run directory and what its config.yaml tells of a change."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs.compose import compose_pretrain, from_yaml
from configs.schema import PretrainConfig
from configs.schema_training import DataConfig, OptimizerConfig
from data_shards.shards.index import load_index
from data_shards.text.tokenizer import load_tokenizer, train_tokenizer
from pretrain import run_directory
from pretrain.run_directory import keep_tokenizer, lock, lock_text, refuse_lost, sees_lock, write_config
from tests.integration.real_shards import build_shards
from tests.pretrain.checkpoints.test_manifest import make


def test_a_directory_is_held_by_one_run_at_a_time(tmp_path):
    held = lock(tmp_path / "run")
    with pytest.raises(ValueError, match=r"run.dir=.* is in use by process \d+ on .*: wait for it"):
        lock(tmp_path / "run")
    held.close()
    lock(tmp_path / "run").close()


def test_the_config_names_versions_and_what_has_changed(tmp_path):
    changes, text = write_config(tmp_path, PretrainConfig(), world=2)
    assert changes == ""
    assert text == (tmp_path / "config.yaml").read_text()
    assert "# torch: " in text and "# ranks: 2" in text
    changes, _ = write_config(tmp_path, PretrainConfig(optimizer=OptimizerConfig(lr=0.25)), world=2)
    assert changes == "optimizer.lr: 0.0005 -> 0.25"
    for damaged in (b"model: {", b"\xff\x00", b"[" * 9999):  # it is for people: a resume does not need it
        (tmp_path / "config.yaml").write_bytes(damaged)
        changes, text = write_config(tmp_path, PretrainConfig(), world=2)
        assert changes.endswith("config.yaml before was damaged") and (tmp_path / "config.yaml").read_text() == text


def test_the_tokenizer_of_the_shards_is_kept_and_another_one_refused(tmp_path):
    shards = build_shards(tmp_path, "text")
    config = PretrainConfig(modality="text", data=DataConfig(shards=str(shards)))
    keep_tokenizer(tmp_path / "run", config)
    assert load_tokenizer(tmp_path / "run" / "tokenizer").entry == load_index(str(shards)).tokenizer
    train_tokenizer(["other words"], 300).save(shards / "tokenizer")
    with pytest.raises(ValueError, match="is not the tokenizer that its shards were made with"):
        keep_tokenizer(tmp_path / "run", config)
    (shards / "tokenizer/vocab.json").unlink()
    with pytest.raises(ValueError, match=r"tokenizer has neither vocab\.json and .*put the old files back"):
        keep_tokenizer(tmp_path / "run", config)
    keep_tokenizer(tmp_path / "images", PretrainConfig())
    assert not (tmp_path / "images").exists()


WRITE_TWICE = r"""
import sys
from pathlib import Path
from configs.compose import compose_pretrain
from pretrain.run_directory import write_config
for name in ("\xe9", "e"):
    print(write_config(Path(sys.argv[1]), compose_pretrain([f"run.dir={name}"]), 1)[0])
"""


def test_the_config_is_read_in_any_locale(tmp_path):
    ascii_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-c", WRITE_TWICE, str(tmp_path)]
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, env={**os.environ, **ascii_locale}, cwd=root, capture_output=True)
    assert ended.stdout.decode() == "\nrun.dir: \xe9 -> e\n", ended.stderr.decode()


def test_credentials_are_not_kept_and_do_not_count_as_a_change(tmp_path):
    shards = ["probe.train_shards=[https://a:hush@h/x,/y]", "probe.test_shards=https://h/z?sig=hush"]
    for password in ("hush", "hush2"):
        config = compose_pretrain(["recipe=demo", f"data.shards=https://me:{password}@host/a", *shards])
        changes, text = write_config(tmp_path, config, world=1)
        assert changes == "" and "hush" not in text + (tmp_path / "config.yaml").read_text()
    kept = from_yaml(tmp_path / "config.yaml")
    assert (kept.data.shards, kept.probe.test_shards) == ("https://***@host/a", "https://h/z?sig=***")


OWN = ("config.yaml", "metrics.jsonl", "bad_steps.jsonl", "tokenizer", "lock", "STOP", "checkpoints/latest")
FOLDERS = ("tokenizer", "checkpoints/staging_step_00000001", "checkpoints/replaced_step_00000007")


@pytest.mark.parametrize("name", [*OWN, *FOLDERS[1:]])
def test_a_directory_with_files_of_somebody_else_is_refused_and_left_as_it_is(tmp_path, name):
    folder = tmp_path / "mine"
    (folder / name).parent.mkdir(parents=True)
    if name in FOLDERS:
        (folder / name).mkdir()
    else:
        (folder / name).write_text('{"step": 1, "mine": true}\n# revision: 3 of my settings\n')
    before = sorted((str(path), path.stat().st_size) for path in tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=f"run.dir={folder} holds {name}, and it was not written by a run: choose an"):
        lock(folder)
    assert sorted((str(path), path.stat().st_size) for path in tmp_path.rglob("*")) == before


def test_the_directory_of_a_run_is_its_own(tmp_path):
    """By its lock, the configuration of any run, or a checkpoint; other files do not matter."""
    (tmp_path / "slurm-1.out").write_text("mine")
    (tmp_path / "checkpoints" / "lost+found").mkdir(parents=True)  # a disk is mounted there
    (tmp_path / "lock").touch()  # killed at the very beginning
    lock(tmp_path).close()
    (tmp_path / "tokenizer").mkdir()  # killed before config.yaml was written
    lock(tmp_path).close()
    (tmp_path / "metrics.jsonl").write_text("{}")
    write_config(tmp_path, PretrainConfig(), world=2)
    (tmp_path / "lock").unlink()  # copied without it
    lock(tmp_path).close()
    (tmp_path / "lock").unlink()
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ValueError, match="holds config.yaml"):
        lock(tmp_path)
    make(tmp_path, 10)
    lock(tmp_path).close()


def test_relative_paths_are_kept_whole(tmp_path, monkeypatch):
    """A probe from another folder finds the training shards, and so compares its held-out samples with them."""
    monkeypatch.chdir(tmp_path)
    given = ["recipe=demo", "data.shards=[a/{0..2}.tar,s3://b/c,/d]", "probe.train_shards=./e", "init=", "run.dir=r"]
    write_config(tmp_path, compose_pretrain(given), world=1)
    kept = from_yaml(tmp_path / "config.yaml")
    assert kept.data.shards == (f"{tmp_path}/a/{{0..2}}.tar", "s3://b/c", "/d")
    assert (kept.probe.train_shards, kept.probe.test_shards, kept.init) == (f"{tmp_path}/./e", "", "")


def test_a_run_whose_checkpoints_are_gone_does_not_begin_anew_by_itself(tmp_path):
    """As where the disk that is mounted on RUN/checkpoints is not."""
    config = compose_pretrain(["recipe=demo", f"run.dir={tmp_path}", "checkpoint.every=10"])
    refuse_lost(config)
    (tmp_path / "metrics.jsonl").write_text('{"step": 19}\n{"step": 20}\n')
    refuse_lost(config)  # killed before the first save was finished
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21}\n')
    with pytest.raises(ValueError, match="tells of step 21, .*/checkpoints holds no checkpoint, .* move metrics.jsonl"):
        refuse_lost(config)
    refuse_lost(compose_pretrain(["recipe=demo", f"run.dir={tmp_path}", "checkpoint.every=0"]))


def test_ranks_tell_the_folder_of_rank_0_by_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(run_directory, "_PATIENCE_S", 0.1)
    held = lock(tmp_path / "a")
    text = lock_text(tmp_path / "a")
    assert text.startswith(f"process {os.getpid()} on ") and sees_lock(tmp_path / "a", text)
    assert not sees_lock(tmp_path / "b", text)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "lock").write_text("process 1 on another")
    assert not sees_lock(tmp_path / "b", text)
    held.close()
