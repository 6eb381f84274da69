"""What the folder of initial weights knows of its model."""

import json

import pytest

from configs.compose import compose_pretrain, to_yaml
from configs.resolve.start import CONTINUED, sizes_of

SIZES = ["model.layers=3", "model.width=96", "model.heads=3", "model.ffn=200", "model.norm=deep"]


def run(folder, *overrides: str):
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(compose_pretrain([*SIZES, *overrides])))
    return str(folder)


def test_a_run_knows_its_model_and_the_sizes_of_its_samples(tmp_path):
    found = sizes_of(run(tmp_path / "a", "modality=text", "text.max_tokens=40", "text.vocab_size=999"), "text")
    assert found["model.width"] == "96" and found["model.norm"] == "deep" and found["text.max_tokens"] == "40"
    assert "text.vocab_size" not in found and "model.dropout" not in found and found["objective"] == "v1"
    assert not any(key.startswith("decoder.") for key in found)


def test_a_run_of_data2vec_2_knows_its_decoder(tmp_path):
    folder = run(tmp_path, "objective=v2", "decoder.groups=4", "decoder.layers=2")
    found = sizes_of(folder, "vision")
    assert (found["objective"], found["decoder.layers"], found["decoder.groups"]) == ("v2", "2", "4")
    compose_pretrain([f"{key}={value}" for key, value in found.items()])


def test_a_hugging_face_folder_knows_its_sizes(tmp_path):
    sizes = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 200}
    (tmp_path / "config.json").write_text(json.dumps({**sizes, "patch_size": 8, "image_size": 64}))
    found = sizes_of(str(tmp_path), "vision")
    assert found["model.width"] == "96" and found["vision.patch_size"] == "8" and found["vision.image_size"] == "64"
    assert "objective" not in found
    for kind, objective in (("vit", "v2"), ("data2vec-vision", "v1")):
        (tmp_path / "config.json").write_text(json.dumps({**sizes, "model_type": kind}))
        assert sizes_of(str(tmp_path), "vision")["objective"] == objective
    (tmp_path / "config.json").write_text(json.dumps({**sizes, "max_position_embeddings": 514}))
    assert sizes_of(str(tmp_path), "text")["text.max_tokens"] == "512"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"hidden_size": "768", "model_type": []}', "null"])
def test_a_folder_that_cannot_be_read_knows_nothing(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    assert sizes_of(str(tmp_path), "vision") == {} == sizes_of(str(tmp_path / "absent"), "vision")


def test_recipes_that_go_on_need_init():
    for recipe in CONTINUED:
        with pytest.raises(ValueError, match=f"recipe={recipe} needs init=VALUE"):
            compose_pretrain([f"recipe={recipe}", "data.shards=/x", "run.dir=/y"])
        config = compose_pretrain([f"recipe={recipe}", "data.shards=/x", "run.dir=/y", "init=/z", "train.steps=300"])
        assert config.init_teacher and config.teacher.decay == pytest.approx(1 - 1 / 300)
        assert config.teacher.decay_end is None and config.schedule.warmup == 30
