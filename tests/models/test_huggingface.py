import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.data2vec import Data2Vec
from models.huggingface import load_pretrained, save_pretrained
from tests.models.common import base_config, random_batch, randomise, tiny_config

transformers = pytest.importorskip("transformers")


def exported(folder, config, std: float = 0.2) -> Data2Vec:
    model = Data2Vec(config).eval()
    randomise(model.student, std=std)
    save_pretrained(folder, model.student.state_dict(), config)
    return model


def edit_config(folder, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("size", ["tiny", pytest.param("base", marks=pytest.mark.slow)])
@torch.no_grad()
def test_hidden_states_equal_transformers(tmp_path, size):
    """Every hidden state with CLS, relative bias and mask vector, to 1e-5 of its scale."""
    config = tiny_config() if size == "tiny" else base_config()
    model = exported(tmp_path, config, std=0.2 if size == "tiny" else 0.03)
    theirs, report = transformers.Data2VecVisionModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    batch = random_batch(config, size=2)
    patches = model.patches(batch)
    p, g = config.vision.patch_size, config.vision.grid
    images = patches.view(2, g, g, 3, p, p).permute(0, 3, 1, 4, 2, 5).reshape(batch.inputs.shape)
    for mask in (None, batch.mask):
        ours = model.student(patches, mask, top=config.model.layers)
        reference = theirs.eval()(images, bool_masked_pos=mask, output_hidden_states=True)
        for mine, other in zip(ours, reference.hidden_states[1:], strict=True):
            assert float((mine - other).abs().max() / other.abs().max()) < 1e-5
        torch.testing.assert_close(model.student.norm(ours[-1]), reference.last_hidden_state, rtol=1e-5, atol=1e-5)


def test_round_trip_is_exact(tmp_path):
    config = tiny_config()
    state = exported(tmp_path, config).student.state_dict()
    loaded = load_pretrained(tmp_path, config)
    assert set(state) - set(loaded) == {"head.weight", "head.bias"} and not set(loaded) - set(state)
    assert all(torch.equal(loaded[name], state[name]) for name in loaded)


def test_exported_configuration(tmp_path):
    exported(tmp_path, tiny_config())
    written = transformers.AutoConfig.from_pretrained(tmp_path)
    assert written.layer_norm_eps == 1e-6 and written.use_shared_relative_position_bias and written.use_mask_token
    assert not written.use_mean_pooling and written.layer_scale_init_value == 1e-4
    preprocessor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert preprocessor["image_mean"] == [0.485, 0.456, 0.406]


def test_folders_that_transformers_saved(tmp_path):
    """Sharded, with the task model's prefix, without a mask vector, default sizes left out of config.json."""
    config = tiny_config()
    exported(tmp_path / "a", config)
    theirs = transformers.Data2VecVisionForImageClassification.from_pretrained(
        tmp_path / "a", use_mask_token=False, use_mean_pooling=False
    )
    theirs.save_pretrained(tmp_path / "b", max_shard_size="20KB")
    assert (tmp_path / "b" / "model.safetensors.index.json").is_file()
    expected, loaded = load_pretrained(tmp_path / "a", config), load_pretrained(tmp_path / "b", config)
    assert set(expected) - set(loaded) == {"tokens.mask"}
    assert all(torch.equal(loaded[name], expected[name]) for name in loaded)
    next((tmp_path / "b").glob("model-00002*")).unlink()
    with pytest.raises(ValueError, match="model-00002-of.* is not there"):
        load_pretrained(tmp_path / "b", config)


def test_pytorch_bin(tmp_path):
    config = tiny_config()
    exported(tmp_path, config)
    expected = load_pretrained(tmp_path, config)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    loaded = load_pretrained(tmp_path, config)
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 64}, "hidden_size is 64, but model.width is 32: choose the model="),
        ({"num_hidden_layers": 12}, "num_hidden_layers is 12, but model.layers is 3"),
        ({"image_size": 384}, "image_size is 384, but vision.image_size is 16"),
        ({"model_type": "vit"}, "describes a 'vit' model"),
    ],
)
def test_another_model(tmp_path, changes, message):
    exported(tmp_path, tiny_config())
    edit_config(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load_pretrained(tmp_path, tiny_config())


def test_incomplete_folders(tmp_path):
    config = tiny_config()
    with pytest.raises(ValueError, match="config.json does not exist"):
        load_pretrained(tmp_path, config)
    exported(tmp_path, config)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layer.1.output.dense.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="lacks 1 weights, the first is encoder.layer.1.output.dense.bias"):
        load_pretrained(tmp_path, config)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no weights"):
        load_pretrained(tmp_path, config)


def test_tables_of_each_block_are_refused(tmp_path):
    config = tiny_config()
    exported(tmp_path, config)
    weights = load_file(tmp_path / "model.safetensors")
    table = weights.pop("encoder.relative_position_bias.relative_position_bias_table")
    weights["encoder.layer.0.attention.attention.relative_position_bias.relative_position_bias_table"] = table
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="table in every block"):
        load_pretrained(tmp_path, config)


def test_layer_scale_is_not_dropped_silently(tmp_path):
    exported(tmp_path, tiny_config())
    with pytest.raises(ValueError, match="has LayerScale, but model.layer_scale is 0"):
        load_pretrained(tmp_path, tiny_config(layer_scale=0.0))
