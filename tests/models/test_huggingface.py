"""Folders that Transformers loads and folders that it wrote: names, configuration, processors, and what is refused.

Whether the networks then agree: test_hidden_states.py.
"""

import pytest
import torch
from safetensors.torch import load_file

from configs.schema import PretrainConfig
from configs.schema_modalities import MODALITIES
from configs.schema_training import MixtureConfig
from models.data2vec import Data2Vec, part_state
from models.huggingface import load_pretrained, save_pretrained
from tests.models.common import randomise, tiny_config
from tests.own import own

transformers = pytest.importorskip("transformers")


CLASSES = {"vision": "Data2VecVisionModel", "speech": "Data2VecAudioModel", "text": "Data2VecTextModel"}


POOLER, HEAD = {"pooler.dense.weight", "pooler.dense.bias"}, {"lm_head.bias"}


each_modality = pytest.mark.parametrize("modality", MODALITIES)


def tiny(modality, **model) -> PretrainConfig:
    return tiny_config(modality=modality, **model)


def exported(folder, config: PretrainConfig) -> Data2Vec:
    model = Data2Vec(config).eval()
    randomise(model.student)
    save_pretrained(folder, model.student.state_dict(), own(config))
    return model


@each_modality
def test_round_trip_is_exact(tmp_path, modality):
    state = exported(tmp_path, tiny(modality)).student.state_dict()
    loaded = load_pretrained(tmp_path, own(tiny(modality)))
    assert not set(loaded) - set(state) and all(name.startswith("head.") for name in set(state) - set(loaded))
    assert all(torch.equal(loaded[name], state[name]) for name in loaded)


@each_modality
def test_transformers_takes_every_weight(tmp_path, modality):
    exported(tmp_path, tiny(modality))
    model, report = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(model).__name__ == CLASSES[modality]
    assert report["missing_keys"] == (POOLER if modality == "text" else set())
    assert report["unexpected_keys"] == (HEAD if modality == "text" else set()) and not report["mismatched_keys"]


@pytest.mark.parametrize("modality", ["speech", "text"])
def test_deepnorm_round_trip(tmp_path, modality):
    config = tiny(modality, norm="deep")
    state = exported(tmp_path, config).student.state_dict()
    loaded = load_pretrained(tmp_path, own(config))
    torch.testing.assert_close(loaded, {name: state[name] for name in loaded})
    theirs = load_file(tmp_path / "model.safetensors")
    path = "encoder.layers.0.attention.out_proj" if modality == "speech" else "encoder.layer.0.attention.output.dense"
    torch.testing.assert_close(theirs[f"{path}.bias"], state["encoder.blocks.0.attention.proj.bias"] / 6**0.25)


@pytest.mark.parametrize(
    ("blocks", "norm", "modalities"),
    [("separate", None, MODALITIES), ("shared", "post", ("speech", "text")), ("shared", None, ("vision",))],
)
def test_parts_of_a_mixture(tmp_path, blocks, norm, modalities):
    config = tiny_config(modality=MODALITIES, norm=norm)
    config.mixture = MixtureConfig(blocks=blocks)
    state = Data2Vec(config).student.state_dict()
    for modality in modalities:
        own = part_state(state, config, modality)
        save_pretrained(tmp_path / modality, own, config.for_modality(modality))
        loaded = load_pretrained(tmp_path / modality, config.for_modality(modality))
        assert loaded and all(torch.equal(loaded[name], own[name]) for name in loaded)
        assert transformers.AutoModel.from_pretrained(tmp_path / modality).config.num_hidden_layers == 3
