"""Images: configuration, and what is refused."""

import json

import pytest
from safetensors.torch import load_file, save_file

from models.huggingface import load_pretrained
from tests.models.test_huggingface import exported, tiny, transformers
from tests.own import own


def test_configuration_of_vision(tmp_path):
    exported(tmp_path, tiny("vision"))
    written = transformers.AutoConfig.from_pretrained(tmp_path)
    assert written.layer_norm_eps == 1e-6 and written.use_shared_relative_position_bias and written.use_mask_token
    assert not written.use_mean_pooling and written.layer_scale_init_value == 1e-4
    preprocessor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert preprocessor["image_mean"] == [0.485, 0.456, 0.406]


def test_tables_of_each_block_are_refused(tmp_path):
    config = tiny("vision")
    exported(tmp_path, config)
    weights = load_file(tmp_path / "model.safetensors")
    table = weights.pop("encoder.relative_position_bias.relative_position_bias_table")
    weights["encoder.layer.0.attention.attention.relative_position_bias.relative_position_bias_table"] = table
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="table in every block"):
        load_pretrained(tmp_path, own(config))


def test_layer_scale_is_not_dropped_silently(tmp_path):
    exported(tmp_path, tiny("vision"))
    with pytest.raises(ValueError, match="has LayerScale, but model.layer_scale is 0"):
        load_pretrained(tmp_path, own(tiny("vision", layer_scale=0.0)))
