"""What the demo adds to the command line, and its shards."""

import subprocess
from pathlib import Path

import pytest

from data_shards.shards.index_file import FolderIndex, ShardEntry, index_json
from pretrain.launching import demo, exits
from pretrain.launching.demo import demo_overrides, with_demo_shards
from tests.pretrain.launching.test_plan import config


def test_the_demo_gets_what_the_user_did_not_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA2VEC_CACHE", "/cache")
    recipe, run, data = "recipe=demo", "run.dir=runs/demo", "data.shards=/cache/shards/train-*.tar"
    train, test = "probe.train_shards=/cache/shards/train-*.tar", "probe.test_shards=/cache/shards/test-*.tar"

    def added(*overrides: str) -> list[str]:
        return demo_overrides(config(*overrides), list(overrides))

    assert added() == [recipe, run, data, train, test]
    assert added("run.dir=there", "probe.test_shards=mine") == [recipe, data, train]
    assert added("probe.train_shards=mine", "probe.test_shards=mine") == [recipe, run, data]
    assert added("probe.train_shards=") == [recipe, run, data], "the probe is off"
    assert added("recipe=demo", "data.shards=mine", "run.dir=there") == []
    completed, overrides = with_demo_shards(config("train.steps=7"), ["train.steps=7"])
    assert overrides == ["train.steps=7", recipe, run, data, train, test]
    assert (completed.train.steps, completed.data.shards) == (7, data.partition("=")[2])
    other = config("recipe=vision_base_imagenet")
    assert with_demo_shards(other, ["x"]) == (other, ["x"]), "no demo"


@pytest.mark.parametrize(("modality", "folder", "probe"), [("speech", "speech", "probe"), ("text", "text", "probe")])
def test_every_modality_has_its_demo(monkeypatch: pytest.MonkeyPatch, modality: str, folder: str, probe: str) -> None:
    monkeypatch.setenv("DATA2VEC_CACHE", "/cache")
    overrides = [f"modality={modality}"]
    assert demo_overrides(config(*overrides), overrides) == [
        f"recipe=demo_{modality}",
        f"run.dir=runs/demo_{modality}",
        f"data.shards=/cache/shards_{folder}/train-*.tar",
        f"probe.train_shards=/cache/shards_{folder}/{probe}-*.tar",
        f"probe.test_shards=/cache/shards_{folder}/test-*.tar",
    ]


def test_what_the_demo_adds_leaves_it_the_demo() -> None:
    for own in ([], ["modality=text"], ["modality=[vision,text]"]):
        added = demo_overrides(config(*own), own)
        assert config(*own, *added).recipe == config(*own).recipe


def test_a_mixture_gets_the_demo_data_of_those_without_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA2VEC_CACHE", "/cache")
    overrides = [
        "recipe=demo_mixture",
        "modality=[vision,text]",
        "mixture.vision.shards=mine",
        "mixture.text.probe_test_shards=mine",
    ]
    assert demo_overrides(config(*overrides), overrides) == [
        "run.dir=runs/demo_mixture",
        "mixture.text.shards=/cache/shards_text/train-*.tar",
        "mixture.text.probe_train_shards=/cache/shards_text/probe-*.tar",
    ]


def test_the_demos_shards_are_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("DATA2VEC_CACHE", str(tmp_path))
    commands: list[list[str]] = []
    codes = iter([2, -9])
    done = lambda command: commands.append(command) or subprocess.CompletedProcess("", next(codes))  # noqa: E731
    monkeypatch.setattr(demo.subprocess, "run", done)
    assert demo.build_demo_shards("vision") == 2, "the build's own: it has said why"
    assert demo.build_demo_shards("vision") == exits.STALLED
    assert "killed by signal 9" in capsys.readouterr().err
    entries = tuple(ShardEntry(f"{split}-000000.tar", 1, 1, "0" * 64, "0" * 64, 1, 1) for split in ("train", "test"))
    (tmp_path / "shards" / "index.json").write_text(index_json(FolderIndex(entries)))
    assert demo.build_demo_shards("vision") == exits.DONE
    assert [command[3:] for command in commands] == 2 * [["build", "source=demo", f"output={tmp_path}/shards"]]
