"""Folders that Transformers loads and folders that it wrote: names, configuration, processors, and what is refused.

Whether the networks then agree: test_hidden_states.py.
"""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.schema import PretrainConfig
from configs.schema_modalities import MODALITIES, TextConfig
from configs.schema_training import MixtureConfig, ModelConfig, TeacherConfig
from data_shards.text.tokenizer import Tokenizer, train_tokenizer
from models.data2vec import Data2Vec, part_state
from models.huggingface import load_pretrained, save_pretrained
from tests.models.common import randomise, tiny_config
from tests.own import own

transformers = pytest.importorskip("transformers")

CLASSES = {"vision": "Data2VecVisionModel", "speech": "Data2VecAudioModel", "text": "Data2VecTextModel"}
POOLER = {"pooler.dense.weight", "pooler.dense.bias"}
each_modality = pytest.mark.parametrize("modality", MODALITIES)


def tiny(modality, **model) -> PretrainConfig:
    return tiny_config(modality=modality, **model)


def exported(folder, config: PretrainConfig) -> Data2Vec:
    model = Data2Vec(config).eval()
    randomise(model.student)
    save_pretrained(folder, model.student.state_dict(), own(config))
    return model


def edit_config(folder, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


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
    assert not report["unexpected_keys"] and not report["mismatched_keys"]


def test_configuration_of_vision(tmp_path):
    exported(tmp_path, tiny("vision"))
    written = transformers.AutoConfig.from_pretrained(tmp_path)
    assert written.layer_norm_eps == 1e-6 and written.use_shared_relative_position_bias and written.use_mask_token
    assert not written.use_mean_pooling and written.layer_scale_init_value == 1e-4
    preprocessor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert preprocessor["image_mean"] == [0.485, 0.456, 0.406]


def test_configuration_of_speech(tmp_path):
    published = PretrainConfig(
        modality="speech",
        model=ModelConfig(layers=1, width=768, heads=12, ffn=8),
        teacher=TeacherConfig(layers=1),
    )
    exported(tmp_path, published)
    written = transformers.AutoModel.from_pretrained(tmp_path).encoder.pos_conv_embed.layers
    assert [(c.conv.kernel_size, c.conv.groups, c.conv.padding) for c in written] == [((19,), 16, (9,))] * 5
    written = transformers.AutoConfig.from_pretrained(tmp_path)
    assert (written.hidden_dropout, written.attention_dropout, written.activation_dropout) == (0.1, 0.1, 0.0)
    assert written.layerdrop == 0 and written.layer_norm_eps == 1e-5 and written.feat_extract_norm == "layer"


def test_configuration_of_text(tmp_path):
    exported(tmp_path, tiny("text"))
    written = transformers.AutoConfig.from_pretrained(tmp_path)
    assert (written.vocab_size, written.max_position_embeddings, written.type_vocab_size) == (50, 26, 1)
    assert (written.bos_token_id, written.pad_token_id, written.eos_token_id, written.mask_token_id) == (0, 1, 2, 49)
    assert written.layer_norm_eps == 1e-5


def test_feature_extractor_normalises_as_training_does(tmp_path):
    """Each clip by its own mean and deviation, zeros behind its end, and a mask that says where that is."""
    exported(tmp_path, tiny("speech"))
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    generator = np.random.default_rng(0)
    clips = [generator.normal(900, 3000, size).astype(np.int16) for size in (4000, 5000)]
    inputs = extractor([clip / 32768 for clip in clips], sampling_rate=16000, padding=True, return_tensors="pt")
    assert inputs.attention_mask.sum(1).tolist() == [4000, 5000] and not inputs.input_values[0, 4000:].any()
    for clip, values in zip(clips, inputs.input_values, strict=True):
        expected = (clip - clip.mean()) / clip.std()
        np.testing.assert_allclose(values[: len(clip)].numpy(), expected, atol=1e-4)


@pytest.fixture
def tokenizer(tmp_path) -> Tokenizer:
    trained = train_tokenizer(["the quick brown fox jumps over the lazy dog, und läuft"] * 4, 290)
    trained.save(tmp_path / "tokenizer")
    return trained


def test_tokenizer_gives_our_ids(tmp_path, tokenizer):
    config, folder = tiny("text"), tmp_path / "out"
    config.text = TextConfig(vocab_size=tokenizer.vocab_size, max_tokens=24)
    save_pretrained(folder, Data2Vec(config).student.state_dict(), own(config), tmp_path / "tokenizer")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in ("the quick brown fox läuft", " two  spaces\nand a line", "😀 unseen", ""):
        assert theirs(text)["input_ids"] == [0, *tokenizer.encode(text), 2]
    assert theirs.mask_token_id == tokenizer.vocab_size - 1 and theirs.pad_token_id == 1
    assert len(theirs("fox " * 100, truncation=True)["input_ids"]) == 24
    assert not [path for path in (tmp_path / "tokenizer").iterdir() if "model_max_length" in path.read_text()]


def test_missing_tokenizer(tmp_path):
    config = tiny("text")
    with pytest.raises(ValueError, match="none has no vocab.json: put there the files of `tokenizer`"):
        save_pretrained(tmp_path, Data2Vec(config).student.state_dict(), own(config), tmp_path / "none")


@pytest.mark.parametrize(
    ("task_class", "modality", "options", "absent"),
    [
        ("Data2VecVisionForImageClassification", "vision", {"use_mask_token": False, "use_mean_pooling": False},
         {"tokens.mask"}),
        ("Data2VecAudioForCTC", "speech", {"mask_time_prob": 0.0}, {"masking.vector"}),
        ("Data2VecAudioForSequenceClassification", "speech", {}, set()),
        ("Data2VecTextForMaskedLM", "text", {}, set()),
    ],
)  # fmt: skip
def test_folders_that_transformers_saved(tmp_path, task_class, modality, options, absent):
    """Sharded, with the task model's prefix and head, without a mask vector."""
    config = tiny(modality)
    exported(tmp_path / "a", config)
    theirs = getattr(transformers, task_class).from_pretrained(tmp_path / "a", **options)
    theirs.save_pretrained(tmp_path / "b", max_shard_size="20KB")
    assert (tmp_path / "b" / "model.safetensors.index.json").is_file()
    expected, loaded = load_pretrained(tmp_path / "a", own(config)), load_pretrained(tmp_path / "b", own(config))
    assert set(expected) - set(loaded) == absent
    assert all(torch.equal(loaded[name], expected[name]) for name in loaded)
    next((tmp_path / "b").glob("model-00002*")).unlink()
    with pytest.raises(ValueError, match="model-00002-of.* is not there"):
        load_pretrained(tmp_path / "b", own(config))


@each_modality
def test_pytorch_bin(tmp_path, modality):
    config = tiny(modality)
    exported(tmp_path, config)
    expected = load_pretrained(tmp_path, own(config))
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    loaded = load_pretrained(tmp_path, own(config))
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_token_types_of_others_are_kept(tmp_path):
    """A folder whose one token type is not zero: it is added to every token's position."""
    config = tiny("text")
    exported(tmp_path, config)
    weights = load_file(tmp_path / "model.safetensors")
    types = weights["embeddings.token_type_embeddings.weight"]
    assert not types.any() and types.shape == (1, 32)
    before = load_pretrained(tmp_path, own(config))["positions.weight"]
    save_file(weights | {"embeddings.token_type_embeddings.weight": types + 3}, tmp_path / "model.safetensors")
    after = load_pretrained(tmp_path, own(config))["positions.weight"]
    assert torch.equal(after[2:], before[2:] + 3) and torch.equal(after[:2], before[:2])


@pytest.mark.parametrize(
    ("modality", "changes", "message"),
    [
        ("vision", {"hidden_size": 64}, "hidden_size is 64, but model.width is 32: choose the model="),
        ("vision", {"num_hidden_layers": 12}, "num_hidden_layers is 12, but model.layers is 3"),
        ("vision", {"image_size": 384}, "image_size is 384, but vision.image_size is 16: set vision.image_size=384"),
        ("vision", {"model_type": "vit"}, "describes a 'vit' model, not 'data2vec-vision'"),
        ("speech", {"model_type": "wav2vec2"}, "describes a 'wav2vec2' model, not 'data2vec-audio'"),
        ("speech", {"conv_dim": [512] * 7}, "but speech.conv_width is 16: set speech.conv_width=512"),
        ("speech", {"conv_bias": True}, "conv_bias is True, but here it is always False"),
        ("speech", {"num_conv_pos_embeddings": 5}, "but speech.position_layers is 3: set speech.position_layers=5"),
        ("text", {"vocab_size": 50265}, "vocab_size is 50265, but text.vocab_size is 50: set text.vocab_size=50265"),
        ("text", {"max_position_embeddings": 514}, "but text.max_tokens is 24: set text.max_tokens=512"),
    ],
)
def test_another_model(tmp_path, modality, changes, message):
    exported(tmp_path, tiny(modality))
    edit_config(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load_pretrained(tmp_path, own(tiny(modality)))


def test_incomplete_folders(tmp_path):
    config = tiny("vision")
    with pytest.raises(ValueError, match="config.json does not exist"):
        load_pretrained(tmp_path, own(config))
    exported(tmp_path, config)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layer.1.output.dense.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="lacks 1 weights, the first is encoder.layer.1.output.dense.bias"):
        load_pretrained(tmp_path, own(config))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no weights"):
        load_pretrained(tmp_path, own(config))


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


@pytest.mark.parametrize(("modality", "norm"), [("vision", "post"), ("speech", "pre"), ("text", "pre")])
def test_models_that_transformers_has_not(tmp_path, modality, norm):
    config = tiny(modality, norm=norm)
    with pytest.raises(ValueError, match=f"model.norm={norm}: Transformers' {CLASSES[modality]} normalises"):
        save_pretrained(tmp_path / "out", Data2Vec(config).student.state_dict(), own(config))
    assert not (tmp_path / "out").exists()


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
