"""`./run.sh probe`: the weights of a run beside the untrained network."""

from dataclasses import replace

import pytest
import torch

from configs.compose import to_yaml
from configs.schema_commands import ProbeCommandConfig
from configs.schema_training import DataConfig
from models.data2vec import Data2Vec
from pretrain.checkpoints import reading
from pretrain.probe import main
from tests.models.common import tiny_config


def test_the_command_probes_the_weights_beside_the_untrained_network(
    coloured_shards, held_out_shards, tmp_path, monkeypatch, capsys
):
    config = tiny_config()
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    blind = Data2Vec(config).student.state_dict()
    blind["patch_embedding.weight"] = torch.zeros_like(blind["patch_embedding.weight"])
    monkeypatch.setattr(reading, "load_weights", lambda run, weights: (blind, 5))
    with pytest.raises(ValueError, match="names no labelled shards: add train_shards=PATTERN"):
        main(ProbeCommandConfig(run=str(tmp_path)))
    main(ProbeCommandConfig(run=str(tmp_path), train_shards=coloured_shards, test_shards=held_out_shards, k=3))
    assert capsys.readouterr().out.splitlines()[2:] == [
        "untrained network  1.000   1.000",
        "teacher at step 5  0.500   0.500",
        "raw pixels         1.000   1.000",
    ]


def test_shards_whose_credentials_were_not_kept_are_asked_for(tmp_path):
    config = tiny_config()
    probe = replace(config.probe, train_shards="https://me:hush@h/train", test_shards="/data/test")
    (tmp_path / "config.yaml").write_text(to_yaml(replace(config, probe=probe)))
    with pytest.raises(
        ValueError, match=r"^https://\*\*\*@h/train: config.yaml keeps no credentials: add train_shards="
    ):
        main(ProbeCommandConfig(run=str(tmp_path)))


def test_test_samples_that_are_not_held_out_are_refused(coloured_shards, held_out_shards, tmp_path, capsys):
    config = replace(tiny_config(), data=DataConfig(shards=held_out_shards))
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    for train, key in ((held_out_shards, "probe.train_shards"), (coloured_shards, "data.shards")):
        told = rf"{held_out_shards}/train-000000.tar is in {key} too \({held_out_shards}/train-000000.tar: [01]/\d+\)"
        with pytest.raises(ValueError, match=f"probe.test_shards are not held out: a sample of {told}"):
            main(ProbeCommandConfig(run=str(tmp_path), train_shards=train, test_shards=held_out_shards))
    gone = replace(tiny_config(), data=DataConfig(shards="/nowhere/*.tar"))
    (tmp_path / "config.yaml").write_text(to_yaml(gone))
    with pytest.raises(ValueError, match="in probe.train_shards too"):
        main(ProbeCommandConfig(run=str(tmp_path), train_shards=coloured_shards, test_shards=coloured_shards))
    assert "not compared with the run's data.shards: no shards match '/nowhere/*.tar'" in capsys.readouterr().err
