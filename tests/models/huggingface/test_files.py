"""Folders of weights: in one file, in several, pickled, incomplete."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.huggingface import load_pretrained
from tests.models.test_huggingface import each_modality, exported, tiny, transformers
from tests.own import own


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
