"""`./run.sh probe`: the weights of a run beside the untrained network."""

import pytest
import torch

from configs.compose import to_yaml
from configs.schema_commands import ProbeCommandConfig
from models.data2vec import Data2Vec
from pretrain.checkpoints import reading
from pretrain.probe import main
from tests.models.common import tiny_config


def test_the_command_probes_the_weights_beside_the_untrained_network(coloured_shards, tmp_path, monkeypatch, capsys):
    config = tiny_config()
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    blind = Data2Vec(config).student.state_dict()
    blind["patch_embedding.weight"] = torch.zeros_like(blind["patch_embedding.weight"])
    monkeypatch.setattr(reading, "load_weights", lambda run, weights: (blind, 5))
    with pytest.raises(ValueError, match="names no labelled shards: add train_shards=PATTERN"):
        main(ProbeCommandConfig(run=str(tmp_path)))
    main(ProbeCommandConfig(run=str(tmp_path), train_shards=coloured_shards, test_shards=coloured_shards, k=3))
    assert capsys.readouterr().out.splitlines()[2:] == [
        "untrained network  1.000   1.000",
        "teacher at step 5  0.500   0.500",
        "raw pixels         1.000   1.000",
    ]
