"""Command line -> config: precedence, and errors that name the key and the remedy."""

from pathlib import Path

import pytest

from configs.compose import GROUPS, compose_pretrain, from_yaml, parse, print_help, to_yaml
from configs.schema import PretrainConfig
from configs.schema_commands import BuildConfig, ExportConfig, ShowConfig
from configs.schema_modalities import MODALITIES


def test_a_recipe_is_not_for_another_modality() -> None:
    message = "recipe=vision_base_imagenet is for vision, not modality=text.*as demo_text, text, text_base_books"
    with pytest.raises(ValueError, match=message):
        compose_pretrain(["recipe=vision_base_imagenet", "modality=text"])


def test_the_demo_is_the_default() -> None:
    config = compose_pretrain([])
    assert (config.recipe, config.demo, config.model.size, config.deepspeed.stage) == ("demo", True, "tiny", 1)


@pytest.mark.parametrize("group", GROUPS)
def test_every_choice_of_every_group_composes(group: str) -> None:
    for choice in GROUPS[group]:
        compose_pretrain([f"{group}={choice}", "init=somewhere"])


def test_a_recipe_chooses_its_model_and_the_command_line_wins() -> None:
    recipe = "recipe=vision_large_imagenet_phase1"
    config = compose_pretrain([recipe])
    assert (config.model.layers, config.model.drop_path, config.deepspeed.stage) == (24, 0.2, 2)
    config = compose_pretrain([recipe, "model=tiny", "deepspeed=zero3", "optimizer.lr=0.5", "model.drop_path=0"])
    assert (config.model.layers, config.deepspeed.stage, config.optimizer.lr, config.model.drop_path) == (4, 3, 0.5, 0)


def test_huge_is_vit_h_14() -> None:
    config = compose_pretrain(["recipe=vision_base_imagenet", "model=huge"])
    model = config.model
    assert (model.layers, model.width, model.heads, model.ffn) == (32, 1280, 16, 5120)
    assert (config.vision.patch_size, config.vision.tokens, config.vision.mask.patches) == (14, 256, 157)


@pytest.mark.parametrize(
    ("overrides", "recipe", "modality"),
    [
        ("modality=vision", "demo", "vision"),
        ("modality=speech", "demo_speech", "speech"),
        ("modality=text", "demo_text", "text"),
        ("modality=[vision,speech,text]", "demo_mixture", ("vision", "speech", "text")),
        ("modality=[text,speech]", "demo_mixture", ("text", "speech")),
        ("recipe=text_large", "text_large", "text"),
        ("recipe=mixture_base modality=[speech,text]", "mixture_base", ("speech", "text")),
        ("recipe=mixture_base modality=speech", "mixture_base", "speech"),
    ],
)
def test_modality_and_recipe_choose_each_other(overrides: str, recipe: str, modality: object) -> None:
    config = compose_pretrain(overrides.split())
    assert (config.recipe, config.modality) == (recipe, modality)


def test_paths_are_not_hydras_grammar() -> None:
    shards = "/data/a b/train-{000000..000146}.tar, (x=1)"
    assert compose_pretrain([f"data.shards={shards}", "modality=vision"]).data.shards == shards
    assert compose_pretrain(["run.dir=2024_10"]).run.dir == "2024_10"
    assert compose_pretrain(["run.dir='a b'"]).run.dir == "a b"


@pytest.mark.parametrize("nothing", ["init=", "init=null"])
def test_phase_two_does_not_take_an_empty_init(nothing: str) -> None:
    with pytest.raises(ValueError, match="needs init=VALUE"):
        compose_pretrain(["recipe=vision_large_imagenet_phase2", nothing])


def test_null_is_no_text() -> None:
    assert compose_pretrain(["init=null", "probe.train_shards=null"]) == compose_pretrain([])
    assert parse(BuildConfig, ["source=demo", "output=x", "input=null"]).input == ""
    with pytest.raises(ValueError, match="output=null: expected a valid string"):
        parse(BuildConfig, ["source=demo", "output=null"])


def test_a_config_survives_its_file(tmp_path: Path) -> None:
    config = compose_pretrain(["recipe=vision_large_imagenet_phase1", "optimizer.eps=1e-7", "data.shards=a/{0..3}.tar"])
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config, {"torch": "2.13.0"}))
    assert from_yaml(file) == config
    assert file.read_text().startswith("# torch: 2.13.0\n")
    assert "\n  global: 4096\n" in file.read_text()


def test_an_unknown_key_in_a_file_names_the_file_and_the_key(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(PretrainConfig()).replace("  clip:", "  clipp:"))
    with pytest.raises(ValueError, match=r"config.yaml: unknown key 'optimizer.clipp': did you mean 'optimizer.clip'"):
        from_yaml(file)
    with pytest.raises(ValueError, match="missing.yaml"):
        from_yaml(tmp_path / "missing.yaml")


def test_flat_commands() -> None:
    config = parse(BuildConfig, ["source=imagefolder", "output=a=b {c}", "shard_mb=64", "workers=null"])
    assert (config.output, config.shard_mb, config.workers) == ("a=b {c}", 64, None)
    with pytest.raises(ValueError, match="'out' is missing: give out=VALUE"):
        parse(ExportConfig, ["run=x"])
    with pytest.raises(ValueError, match="unknown key 'weight': did you mean 'weights'"):
        parse(ExportConfig, ["run=x", "out=y", "weight=teacher"])
    with pytest.raises(ValueError, match="weights=both: expected 'teacher' or 'student'"):
        parse(ExportConfig, ["run=x", "out=y", "weights=both"])


def test_bytes_that_are_not_utf_8_are_refused_before_they_are_written():
    with pytest.raises(ValueError, match=r"^'run\.dir=/r/\\udcff' holds .* bytes that are not UTF-8"):
        compose_pretrain(["run.dir=/r/\udcff"])


def test_a_recipe_gives_a_command_the_keys_that_it_shares_with_pretrain() -> None:
    given = ["shards=x", "out=a.html"]
    default = parse(ShowConfig, given)
    assert default.vision == PretrainConfig().vision and default.modality is None
    demo = parse(ShowConfig, ["vision.flip=0", *given, "recipe=demo", "vision.mask.patches=9"])
    pretrain = compose_pretrain(["recipe=demo", "vision.flip=0", "vision.mask.patches=9"])
    assert demo.vision == pretrain.vision and demo.modality == "vision" and demo.shards == "x"
    assert parse(ShowConfig, [*given, "recipe=mixture_base"]).modality == ("vision", "speech", "text")
    with pytest.raises(ValueError, match="unknown recipe 'demos': one of demo, "):
        parse(ShowConfig, [*given, "recipe=demos"])


@pytest.mark.parametrize("recipe", GROUPS["recipe"])
def test_commands_that_take_a_recipe_get_its_numbers_as_a_run_does(recipe) -> None:
    overrides = [f"recipe={recipe}"]
    shown = parse(ShowConfig, ["shards=/x", "out=/x.png", *overrides])
    shards = ["data.shards=/x", *(f"mixture.{name}.shards=/x" for name in MODALITIES)]
    run = compose_pretrain([*overrides, "run.dir=/r", "init=/i", *shards])
    assert (shown.vision, shown.speech) == (run.vision, run.speech)


def test_help_shows_no_credentials(capsys) -> None:
    with pytest.raises(SystemExit):
        print_help(PretrainConfig, ["recipe=vision", "data.shards=https://me:hush@h/x", "run.dir=r", "--help"])
    assert "data.shards=https://***@h/x" in (text := capsys.readouterr().out) and "hush" not in text
