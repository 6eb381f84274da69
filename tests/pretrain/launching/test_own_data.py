"""Shards of the user's own never train with a demo's numbers."""

from pathlib import Path

import pytest

from configs.compose import GROUPS, compose_pretrain, to_yaml
from configs.keys import flat, plain
from configs.schema_modalities import MODALITIES
from data_shards.shards.index_file import INDEX_NAME
from pretrain import launch
from pretrain.launching import resolved
from pretrain.launching.own_data import own_data_overrides
from pretrain.launching.plan import Machine
from tests.data_shards.shard_tools import make_shards
from tests.pretrain.test_launch import keep_signals  # noqa: F401

DEMOS = [recipe for recipe in GROUPS["recipe"] if recipe.startswith("demo")]
SAMPLES = ("vision.", "speech.", "text.")


@pytest.fixture
def started(monkeypatch, keep_signals) -> list[list[str]]:  # noqa: F811
    """Overrides of the ranks that a launch would have started."""
    found: list[list[str]] = []
    monkeypatch.setattr(resolved, "this_machine", lambda: Machine(gpus=[], cores=4))
    monkeypatch.setattr(launch, "command_line", lambda launch, machine, overrides: found.append(overrides) or [])
    monkeypatch.setattr(launch, "supervise", lambda job: 0)
    return found


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("named", [True, False], ids=["modality given", "modality read"])
def test_own_shards_never_train_with_a_demos_numbers(tmp_path: Path, started, capsys, modality, named) -> None:
    shards = make_shards(tmp_path / "shards", (40, 40), modality=modality)
    own = [f"data.shards={shards}", f"run.dir={tmp_path}/run", *([f"modality={modality}"] if named else [])]
    assert launch.main(own) == 0
    config = compose_pretrain(started[0])
    assert (config.recipe, config.demo, config.modality) == (modality, False, modality)
    assert f"recipe {modality}," in capsys.readouterr().out
    ours, default = flat(plain(config)), flat(plain(compose_pretrain([f"recipe={modality}"])))
    changed = {key for key in ours if ours[key] != default[key]}
    chosen = {"data.shards", "run.dir", "batch.micro", "batch.global", "optimizer.lr", "text.vocab_size"}
    others = [key for key in changed - chosen if key.partition(".")[0] != modality]
    assert not others, "what the amount of data and the device do not choose is the neutral recipe's"


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_neutral_recipe_has_no_sizes_of_a_demos_samples(modality) -> None:
    """The demo's: images of 28 pixels in Fashion-MNIST's greys, clips of 3 seconds, texts of 64 tokens."""
    demo = flat(plain(compose_pretrain([f"modality={modality}"])))
    ours = flat(plain(compose_pretrain([f"recipe={modality}"])))
    sizes = ("vision.image_size", "vision.mean", "vision.std", "speech.max_seconds", "text.max_tokens", "demo")
    own = [key for key in sizes if key.startswith(modality) or key == "demo"]
    assert not [key for key in own if demo[key] == ours[key]]


def test_no_argument_and_a_recipe_stay_what_they_are(tmp_path: Path) -> None:
    assert own_data_overrides([]) == own_data_overrides(["modality=speech"]) == []
    assert own_data_overrides(["data.shards=null", "modality=text"]) == []
    shards = make_shards(tmp_path / "shards", (4,))
    assert own_data_overrides([f"data.shards={shards}", "recipe=vision_base_imagenet"]) == []


def test_a_run_keeps_its_sizes_on_another_device(tmp_path: Path, started, monkeypatch) -> None:
    own = [f"data.shards={make_shards(tmp_path / 'shards', (40, 40))}", f"run.dir={tmp_path}/run"]

    def launched(*overrides: str):
        assert launch.main([*own, *overrides]) == 0
        return compose_pretrain(started.pop())

    first = launched("batch.global=16")
    assert (first.model.size, first.batch.global_, first.batch.micro, first.train.steps) == ("tiny", 16, 16, 1000)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(to_yaml(first))
    monkeypatch.setattr(resolved, "this_machine", lambda: Machine(gpus=["0", "1"], cores=16, memory_gib=80))
    again = launched()
    assert (again.model, again.vision, again.train, again.optimizer) == (
        first.model, first.vision, first.train, first.optimizer
    )  # fmt: skip
    assert (again.batch.global_, again.batch.micro, again.data.workers) == (16, 8, 7)
    (tmp_path / "run" / "config.yaml").write_text("damaged: [")
    assert launched().model.size == "small"


def test_what_the_user_gives_is_left_alone(tmp_path: Path, started) -> None:
    own = ["model=small", "vision.image_size=32", "batch.micro=5", "batch.global=10", "train.steps=7"]
    assert launch.main([f"data.shards={make_shards(tmp_path / 'shards', (40,))}", f"run.dir={tmp_path}/run", *own]) == 0
    config = compose_pretrain(started.pop())
    assert (config.model.size, config.vision.image_size, config.train.steps) == ("small", 32, 7)
    assert (config.batch.global_, config.batch.micro) == (10, 5)


def test_the_vocabulary_is_that_of_the_shards(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", (4,), modality="text")
    for own in (["recipe=text"], ["recipe=text_large"]):
        assert own_data_overrides([f"data.shards={shards}", *own]) == ["text.vocab_size=300"]
    assert own_data_overrides([f"data.shards={shards}"]) == ["recipe=text", "text.vocab_size=300"]
    mixed = ["recipe=mixture_base", f"mixture.text.shards={shards}"]
    assert own_data_overrides(mixed) == ["text.vocab_size=300"]
    assert own_data_overrides([*mixed, "text.vocab_size=400"]) == [], "the user's word; a wrong one is refused later"
    (tmp_path / "shards" / INDEX_NAME).unlink()
    assert own_data_overrides(["recipe=text", f"data.shards={tmp_path}/shards/*.tar"]) == []


def test_mistakes_are_a_line_with_the_remedy(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    make_shards(folder, (4, 4))

    def mistake(*overrides: str) -> str:
        with pytest.raises(ValueError) as error:
            own_data_overrides(list(overrides))
        assert "\n" not in str(error.value)
        return str(error.value)

    own = f"data.shards={folder}"
    assert "modality=speech, but data.shards holds vision: leave out modality" in mistake(own, "modality=speech")
    assert "no shards match" in mistake(f"data.shards={tmp_path}/nothing")
    assert "unknown key 'trian.steps'" in mistake(own, "trian.steps=3")
    (folder / "val-000000.tar").write_bytes((folder / "train-000000.tar").read_bytes())
    assert f"several names: train-*.tar (2), val-*.tar (1); give one of them, as {folder}/train-*.tar" in mistake(own)
    (folder / INDEX_NAME).unlink()
    (folder / "val-000000.tar").unlink()
    assert f"is not in an index.json beside it; make one: ./run.sh shards index shards={folder}" in mistake(own)
    for key in ("data.shards", "mixture.text.shards"):
        with pytest.raises(ValueError, match=f"{key} without recipe.*add .*recipe="):
            compose_pretrain([f"{key}=/a", *(["modality=[vision,text]"] if "mixture" in key else [])])


def test_a_continued_run_takes_the_model_from_init_and_its_length_from_the_data(tmp_path: Path, started) -> None:
    shards, first = make_shards(tmp_path / "shards", (40, 40)), tmp_path / "first"
    (first / "checkpoints").mkdir(parents=True)
    sizes = ["model.layers=3", "model.width=96", "model.heads=3", "vision.image_size=48", "vision.patch_size=6"]
    (first / "config.yaml").write_text(to_yaml(compose_pretrain([*sizes, "modality=vision"])))
    command = ["recipe=vision_continued", f"init={first}", f"data.shards={shards}", f"run.dir={tmp_path}/run"]
    assert launch.main(command) == 0
    config = compose_pretrain(started[0])
    assert (config.model.layers, config.model.width, config.vision.image_size, config.vision.patch_size) == (
        3,
        96,
        48,
        6,
    )
    assert config.train.steps == 1000 and config.init_teacher
    assert config.batch.global_ == 8, "a tenth of the data"
    assert launch.main([*command, "vision.image_size=60"]) == 0
    assert compose_pretrain(started[1]).vision.image_size == 60, "what the user gives wins"
