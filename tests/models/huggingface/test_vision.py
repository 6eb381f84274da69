"""Images: configuration, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.data2vec import Data2Vec
from models.huggingface import layout_of, load_pretrained, save_pretrained
from models.vision import patchify
from tests.models.common import randomise, tiny_config
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


def sincos(**model):
    return tiny_config(objective="v2", **model)


def test_a_model_of_fixed_positions_is_transformers_vit(tmp_path):
    """Every hidden state, on whole images; no weight is missing or unexpected, and it comes back as it was."""
    from transformers import ViTModel

    config = sincos()
    model = Data2Vec(config).eval()
    randomise(model.student)
    state = model.student.state_dict()
    save_pretrained(tmp_path, state, own(config))
    theirs, report = ViTModel.from_pretrained(tmp_path, add_pooling_layer=False, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    images = torch.randn(2, 3, 16, 16)
    patches = patchify(images, config.vision.patch_size)
    with torch.no_grad():
        (ours,) = model.student(model.student.embed(patches), None)
        expected = theirs(images).last_hidden_state
    torch.testing.assert_close(model.student.norm(ours), expected, rtol=1e-4, atol=1e-4)
    back = load_pretrained(tmp_path, own(config))
    assert all(torch.equal(back[name], state[name]) for name in back) and "tokens.cls" in back


def test_fixed_positions_are_of_one_form_alone(tmp_path):
    with pytest.raises(ValueError, match="layer_scale=0.0001: with vision.positions=sincos .*model.layer_scale=0"):
        layout_of(own(sincos(layer_scale=1e-4)))
    config = sincos()
    save_pretrained(tmp_path, Data2Vec(config).student.state_dict(), own(config))
    weights = load_file(tmp_path / "model.safetensors")
    weights["embeddings.position_embeddings"] += 0.1
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="has other positions than vision.positions=sincos"):
        load_pretrained(tmp_path, own(config))
