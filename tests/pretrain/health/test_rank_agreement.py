"""Ranks that would not train the same run end before the first step, and say in what they differ."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs.compose import compose_pretrain
from configs.keys import leaf_keys
from configs.schema import PretrainConfig
from data_shards.shards.index import load_index
from pretrain.health import rank_agreement
from pretrain.health.rank_agreement import NODE_KEYS, check_ranks_agree, run_facts, weight_facts
from pretrain.launching.plan import free_port
from tests.data_shards.shard_tools import make_shards
from tests.integration.made_up import tiny
from tests.integration.processes import ENVIRONMENT, ROOT


@pytest.fixture
def ranks(monkeypatch):
    """A function that checks the facts of several ranks, as the first of them."""

    def check(*facts: dict[str, str]) -> None:
        gathered = iter([[rank_agreement._digest([repr(sorted(own.items())).encode()]) for own in facts], [*facts]])
        monkeypatch.setattr(rank_agreement.distributed, "gather", lambda mine: next(gathered))
        check_ranks_agree(facts[0])

    return check


def test_equal_facts_pass(ranks) -> None:
    ranks({"a": "1", "b": "2"}, {"b": "2", "a": "1"})


def test_what_differs_is_named_with_its_ranks(ranks) -> None:
    same = {"train.seed": "0", "optimizer.lr": "0.1"}
    with pytest.raises(ValueError, match=r"^the ranks do not agree: optimizer\.lr is 0\.1 on ranks 0-2, 5, 1\.0 on ran"
                                         r"ks 3-4: start every node with the same command"):  # fmt: skip
        ranks(same, same, same, *[{**same, "optimizer.lr": "1.0"}] * 2, same)


def test_of_many_differences_the_first_are_shown(ranks) -> None:
    with pytest.raises(ValueError, match="a is 0 on rank 0, 1 on rank 1; .*c is .*; and 2 more: start"):
        ranks(dict.fromkeys("abcde", "0"), dict.fromkeys("abcde", "1"))


def test_a_fact_that_one_rank_lacks_is_a_difference(ranks) -> None:
    with pytest.raises(ValueError, match="b is absent on rank 0, 2 on rank 1"):
        ranks({"a": "1"}, {"a": "1", "b": "2"})


def test_the_keys_of_a_node_exist_and_may_differ(tmp_path) -> None:
    assert NODE_KEYS.keys() <= leaf_keys(PretrainConfig).keys()
    index = load_index(make_shards(tmp_path / "a", (4, 4)))
    own = [
        "recipe=demo",
        "cluster.node_rank=1",
        "data.shards=/other",
        "data.workers=7",
        "data.cache_dir=/scratch",
        "launch.threads=3",
    ]
    assert run_facts(compose_pretrain(own), {"vision": index}) == run_facts(compose_pretrain([]), {"vision": index})


@pytest.mark.parametrize("override", ["optimizer.lr=1", "train.seed=3", "batch.micro=1", "run.dir=/elsewhere"])
def test_other_keys_may_not(override) -> None:
    changed = run_facts(compose_pretrain([override]), {}).items() - run_facts(compose_pretrain([]), {}).items()
    assert [name for name, _ in changed] == [override.partition("=")[0]]


def test_classes_probes_versions_and_code_count(tmp_path, monkeypatch) -> None:
    pattern = make_shards(tmp_path, (4, 4))
    index, config = load_index(pattern), compose_pretrain([f"probe.train_shards={pattern}"])
    before = run_facts(config, {"vision": index})
    assert "the index of the vision probe's reference shards" in before
    assert run_facts(config, {"vision": replace(index, classes=("b", "a"))}) != before
    monkeypatch.setattr(rank_agreement, "version", lambda package: f"{package} 0")
    assert "the version of torch" in dict(run_facts(config, {"vision": index}).items() - before.items())
    monkeypatch.setattr(rank_agreement, "_CODE", ("configs",))
    assert "the code of configs" in run_facts(config, {"vision": index})


def test_initial_weights_count() -> None:
    weights = {"a": torch.zeros(2, 3), "b": torch.ones(())}
    assert weight_facts(weights) == weight_facts(dict(reversed(weights.items())))
    assert weight_facts(weights) != weight_facts({**weights, "a": weights["a"] - 0.0 + torch.eye(2, 3)})


def rank(number: int, port: int, *overrides: str) -> subprocess.Popen[str]:
    place = {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    environment = {**ENVIRONMENT, **place, "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "pretrain.train", *overrides]
    return subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def stale(shards: Path, folder: Path) -> Path:
    """A copy of the shards with the index of a build in which a tar had another checksum."""
    shutil.copytree(shards, folder)
    index = json.loads((folder / "index.json").read_text())
    index["shardlist"][0]["sha256"] = "0" * 64
    del index["content_sha256"]
    (folder / "index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.slow
def test_two_ranks_that_differ_end_with_2_and_a_line_each(tmp_path) -> None:
    make_shards(tmp_path / "shards", (30, 17))
    other = stale(tmp_path / "shards", tmp_path / "stale")
    common = [*tiny("vision", 16, 4), f"run.dir={tmp_path / 'run'}", "train.steps=2", "data.workers=0"]
    port = free_port()
    processes = [
        rank(0, port, *common, f"data.shards={tmp_path / 'shards'}", "optimizer.lr=0.01"),
        rank(1, port, *common, f"data.shards={other}", "optimizer.lr=1", "train.seed=1"),
    ]
    texts = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], texts
    for text, start in zip(texts, ("error: ", "error (rank 1): "), strict=True):
        (line,) = [line for line in text.splitlines() if "error" in line]
        assert line.startswith(
            f"{start}the ranks do not agree: optimizer.lr is 0.01 on rank 0, 1.0 on rank 1; "
            "train.seed is 0 on rank 0, 1 on rank 1; the index of the vision training shards is "
        )
    assert not list((tmp_path / "run").glob("checkpoints"))
