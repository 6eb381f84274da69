"""Sizes and norms that Transformers' models cannot have."""

import json

import pytest

from models.data2vec import Data2Vec
from models.huggingface import load_pretrained, save_pretrained
from tests.models.test_huggingface import CLASSES, exported, tiny
from tests.own import own


def edit_config(folder, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("modality", "changes", "message"),
    [
        ("vision", {"hidden_size": 64}, "hidden_size is 64, but model.width is 32: choose the model="),
        ("vision", {"num_hidden_layers": 12}, "num_hidden_layers is 12, but model.layers is 3"),
        ("vision", {"model_type": "vit"}, "describes a 'vit' model, not 'data2vec-vision'"),
        ("speech", {"model_type": "wav2vec2"}, "describes a 'wav2vec2' model, not 'data2vec-audio'"),
        ("speech", {"conv_dim": [512] * 7}, "but speech.conv_width is 16: set speech.conv_width=512"),
        ("speech", {"conv_bias": True}, "conv_bias is True, but here it is always False"),
        ("speech", {"num_conv_pos_embeddings": 5}, "but speech.position_layers is 3: set speech.position_layers=5"),
        ("text", {"hidden_size": "32"}, "hidden_size is '32', where 32 would fit this run: no model of this kind"),
        ("text", {"max_position_embeddings": None}, "max_position_embeddings is None, where 26 would fit this run"),
        ("speech", {"conv_dim": []}, r"conv_dim is \[\], where .* would fit this run"),
        ("speech", {"conv_dim": [512] * 6 + [16]}, r"conv_dim is \[512, .*16\], where .* would fit this run"),
        ("speech", {"conv_kernel": {}}, "conv_kernel is {}, but here it is always"),
        ("vision", {"model_type": ["data2vec-vision"]}, "describes a .'data2vec-vision'. model, not"),
    ],
)
def test_another_model(tmp_path, modality, changes, message):
    exported(tmp_path, tiny(modality))
    edit_config(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load_pretrained(tmp_path, own(tiny(modality)))


@pytest.mark.parametrize(
    ("modality", "key", "more"),
    [("vision", "image_size", 32), ("text", "vocab_size", 60), ("text", "max_position_embeddings", 40)],
)
def test_tables_of_other_numbers_of_positions_and_types_are_read_as_they_are(tmp_path, modality, key, more):
    config = tiny(modality)
    exported(tmp_path, config)
    edit_config(tmp_path, **{key: more})
    load_pretrained(tmp_path, own(config))
    edit_config(tmp_path, **{key: str(more)})
    with pytest.raises(ValueError, match=f"{key} is '{more}'"):
        load_pretrained(tmp_path, own(config))


@pytest.mark.parametrize(("modality", "norm"), [("vision", "post"), ("speech", "pre"), ("text", "pre")])
def test_models_that_transformers_has_not(tmp_path, modality, norm):
    config = tiny(modality, norm=norm)
    with pytest.raises(ValueError, match=f"model.norm={norm}: Transformers' {CLASSES[modality]} normalises"):
        save_pretrained(tmp_path / "out", Data2Vec(config).student.state_dict(), own(config))
    assert not (tmp_path / "out").exists()
