"""Folders of weights: in one file, in several, pickled, incomplete, damaged, hostile."""

import json
import pickle
import random
from pathlib import Path

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


class Code:
    """An object whose unpickling runs code."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def pickled(folder: Path, content: object) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")


def indexed(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def with_weights(folder: Path, change) -> None:
    """Change the tensors of the folder: `change` gets them by name and returns others."""
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors")


def each(change):
    return lambda folder: with_weights(folder, lambda weights: {name: change(w) for name, w in weights.items()})


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def is_query(name: str) -> bool:
    return name.endswith(("q_proj.weight", "query.weight"))


HARMS = {
    "config.json is no JSON": [
        lambda f: cut(f / "config.json", 30),
        lambda f: (f / "config.json").write_bytes(b"\xff\xfe{}"),
        lambda f: (f / "config.json").write_text("[" * 99_999),
    ],
    "config.json is no JSON object": [lambda f: (f / "config.json").write_text("[1]")],
    "model.safetensors cannot be read as weights": [
        lambda f: cut(f / "model.safetensors", 3000),
        lambda f: cut(f / "model.safetensors", 4),
        lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64),
        lambda f: (f / "model.safetensors").write_bytes(b""),
    ],
    "index.json is no JSON": [lambda f: indexed(f, {}) or cut(f / "model.safetensors.index.json", 5)],
    "index.json has no weight_map": [
        lambda f: indexed(f, None),
        lambda f: indexed(f, ["a.safetensors"]),
        lambda f: indexed(f, {"a": 3}),
        lambda f: indexed(f, {"a": "../a.safetensors"}),
        lambda f: indexed(f, {"a": str(f / "a.safetensors")}),
        lambda f: indexed(f, {"a": "config.json"}),
    ],
    "a.safetensors cannot be read as weights": [
        lambda f: indexed(f, {"none": "a.safetensors"}),
        lambda f: indexed(f, {"a": "a.safetensors"}) or cut(f / "a.safetensors", 99),
    ],
    "pytorch_model.bin cannot be read as weights": [
        lambda f: pickled(f, Code(f / "ran")),
        lambda f: pickled(f, {}) or cut(f / "pytorch_model.bin", 100),
        lambda f: pickled(f, {"a": torch.ones(9999)}) or cut(f / "pytorch_model.bin", 5000),
        lambda f: pickled(f, {}) or (f / "pytorch_model.bin").write_bytes(pickle.dumps(Code(f / "ran"), protocol=2)),
        lambda f: pickled(f, {}) or (f / "pytorch_model.bin").write_bytes(b""),
    ],
    "pytorch_model.bin holds no weights by name": [lambda f: pickled(f, [1]), lambda f: pickled(f, {1: torch.ones(1)})],
    "lacks [0-9]+ weights": [lambda f: pickled(f, {"encoder": "none"}), lambda f: indexed(f, {})],
    "give unquantised weights": [
        each(lambda w: w.to(torch.int8) if len(w) == 32 else w),
        each(lambda w: w.to(torch.float8_e4m3fn) if len(w) == 32 else w),
    ],
    "no model of this kind, or damaged": [
        lambda f: with_weights(f, lambda w: w | {name: w[name][:, :9].clone() for name in w if is_query(name)}),
        lambda f: with_weights(f, lambda w: w | {name: torch.ones(()) for name in w if is_query(name)}),
    ],
}  # fmt: skip


@each_modality
@pytest.mark.parametrize("said", HARMS)
def test_damaged_and_hostile_folders_are_one_line_that_names_the_file(tmp_path, modality, said):
    for number, harm in enumerate(HARMS[said]):
        folder = tmp_path / str(number)
        exported(folder, tiny(modality))
        harm(folder)
        with pytest.raises(ValueError, match=f"^{folder}.*{said}") as caught:
            load_pretrained(folder, own(tiny(modality)))
        assert "\n" not in str(caught.value) and not (folder / "ran").exists()


@each_modality
def test_prefixes_are_taken_off_however_many_there_are(tmp_path, modality):
    exported(tmp_path, tiny(modality))
    expected = load_pretrained(tmp_path, own(tiny(modality)))
    prefix = {"vision": "data2vec_vision.", "speech": "data2vec_audio.", "text": "data2vec_text."}[modality]
    with_weights(tmp_path, lambda weights: {prefix * 2 + name: tensor for name, tensor in weights.items()})
    loaded = load_pretrained(tmp_path, own(tiny(modality)))
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    with_weights(
        tmp_path, lambda weights: weights | {name.removeprefix(prefix): w.clone() for name, w in weights.items()}
    )
    with pytest.raises(ValueError, match=f"has several weights called .*, with and without {prefix}: keep one model"):
        load_pretrained(tmp_path, own(tiny(modality)))


@each_modality
def test_flipped_bits_never_give_a_traceback(tmp_path, modality):
    """In config.json and in the header of the weights."""
    exported(tmp_path, tiny(modality))
    dice, refused = random.Random(0), 0
    for file in ("config.json", "model.safetensors"):
        sound = (tmp_path / file).read_bytes()
        for _ in range(60):
            data = bytearray(sound)
            data[dice.randrange(min(len(data), 4000))] ^= 1 << dice.randrange(8)
            (tmp_path / file).write_bytes(data)
            try:
                load_pretrained(tmp_path, own(tiny(modality)))
            except ValueError as error:
                refused += 1
                assert str(tmp_path) in str(error)
        (tmp_path / file).write_bytes(sound)
    assert refused > 40
