"""Command line -> config: precedence, and errors that name the key and the remedy."""

from pathlib import Path

import pytest

from configs.compose import GROUPS, compose_pretrain, from_yaml, parse, to_yaml
from configs.schema import PretrainConfig
from configs.schema_commands import BuildConfig, ExportConfig


def test_a_recipe_is_not_for_another_modality() -> None:
    message = "recipe=vision_base_imagenet is for vision, not modality=text.*as demo_text, text_base_books_wikipedia"
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


def test_the_published_numbers() -> None:
    """data2vec paper, section 4.1, and the authors' commands: 1,281,167 images, 800 epochs each."""
    base, phase1, phase2 = (
        compose_pretrain([f"recipe=vision_{name}", "init=phase1"])
        for name in ("base_imagenet", "large_imagenet_phase1", "large_imagenet_phase2")
    )
    assert [c.optimizer.lr for c in (base, phase1, phase2)] == [2e-3, 1e-3, 1e-3]
    assert [c.teacher.decay for c in (base, phase1, phase2)] == [0.9998, 0.9998, 0.9999]
    assert [c.model.layer_scale for c in (base, phase1, phase2)] == [1e-4, 1e-5, 1e-5]
    assert [c.model.attention_dropout for c in (base, phase1, phase2)] == [0.05, 0.15, 0.15]
    assert [c.model.drop_path for c in (base, phase1, phase2)] == [0.25, 0.2, 0.2]
    for config, warmup_epochs in ((base, 10), (phase1, 80), (phase2, 40)):
        epoch = 1_281_167 // config.batch.global_
        assert config.schedule.steps == config.train.steps == 800 * epoch
        assert config.schedule.warmup == warmup_epochs * epoch


def test_the_published_numbers_of_speech_and_text() -> None:
    """data2vec paper, sections 4.2, 4.3 and 5.2, and the authors' configurations in fairseq."""
    speech, audioset, text = (
        compose_pretrain([f"recipe={name}"])
        for name in ("speech_base_librispeech", "speech_base_audioset", "text_base_books_wikipedia")
    )
    assert [c.optimizer.lr for c in (speech, audioset, text)] == [5e-4, 5e-4, 2e-4]
    assert [c.teacher.layers for c in (speech, audioset, text)] == [8, 12, 10]
    assert [(c.teacher.decay, c.teacher.decay_end, c.teacher.decay_steps) for c in (speech, audioset, text)] == [
        (0.999, 0.9999, 30_000), (0.999, 0.9999, 30_000), (0.999, 0.9999, 300_000)
    ]  # fmt: skip
    assert [c.schedule.steps for c in (speech, audioset, text)] == [400_000, 200_000, 1_000_000]
    assert (speech.schedule.warmup / 400_000, speech.schedule.hold / 400_000) == (0.03, 0.9)
    assert [c.model.norm for c in (speech, audioset, text)] == ["post", "deep", "post"]
    assert (speech.model.layer_drop, audioset.teacher.mean_norm) == (0.05, "layer")
    assert speech.batch.global_ * 12.3 / 60 == pytest.approx(63.3, rel=0.05)  # minutes; clips of 12.3 s on average
    assert audioset.batch.global_ * 10 / 60 == pytest.approx(85, rel=0.05)
    assert text.batch.global_ * text.text.max_tokens == 16 * 8192


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


def test_a_modality_has_its_published_values_where_the_run_says_nothing() -> None:
    plain = PretrainConfig(modality=("vision", "speech", "text"))
    configs = [plain.for_modality(modality) for modality in plain.modalities]
    assert [own.modality for own in configs] == ["vision", "speech", "text"]
    assert [own.model.norm for own in configs] == ["pre", "pre", "pre"], "shared blocks have one form"
    assert [(own.teacher.layers, own.teacher.target) for own in configs] == [(6, "block"), (8, "ffn"), (10, "ffn")]
    assert [own.teacher.average for own in configs] == ["all", "transformer", "blocks"]
    assert [(own.loss.beta, own.loss.reduction) for own in configs] == [(2, "mean"), (0, "sqrt"), (4, "sum")]
    alone = PretrainConfig(modality="speech").for_modality("speech")
    assert (alone.model.norm, alone.model.dropout, alone.teacher.block_norm) == ("post", 0.1, "instance")


def test_the_runs_word_and_the_mixtures_share_win() -> None:
    config = compose_pretrain(
        ["modality=[vision,text]", "mixture.text.shards=/t", "mixture.text.global=4", "teacher.layers=2", "loss.beta=1",
         "model.dropout=0.2", "mixture.blocks=separate", "batch.global=64", "mixture.vision.weight=3"]
    )  # fmt: skip
    vision, text = config.for_modality("vision"), config.for_modality("text")
    assert (text.data.shards, text.batch.global_, vision.data.shards, vision.batch.global_) == ("/t", 4, "", 64)
    assert [(p.teacher.layers, p.loss.beta, p.model.dropout) for p in (vision, text)] == [(2, 1, 0.2)] * 2
    assert [p.model.norm for p in (vision, text)] == ["pre", "post"], "separate blocks are each as published"
    assert config.mixture.vision.weight == 3


def test_paths_are_not_hydras_grammar() -> None:
    shards = "/data/a b/train-{000000..000146}.tar, (x=1)"
    assert compose_pretrain([f"data.shards={shards}"]).data.shards == shards
    assert compose_pretrain(["run.dir=2024_10"]).run.dir == "2024_10"
    assert compose_pretrain(["run.dir='a b'"]).run.dir == "a b"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lrr=1", "unknown key 'optimizer.lrr': did you mean 'optimizer.lr'?"),
        ("lr=1", "unknown key 'lr': did you mean 'optimizer.lr'?"),
        ("modle=tiny", "unknown key 'modle': did you mean 'model'?"),
        ("qqqq=1", "unknown key 'qqqq': --help lists the keys"),
        ("batch.global_=4", "unknown key 'batch.global_': did you mean 'batch.global'?"),
        ("modality=audio", "modality=audio: 'audio' is unknown: one of vision, speech, text"),
        ("modality=[text,text]", "modality=[text,text]: 'text' is twice"),
        ("recipe=base", "unknown recipe 'base': one of demo, demo_mixture, demo_speech"),
        ("deepspeed=zero4", "unknown deepspeed 'zero4': one of zero0, zero1, zero2, zero3"),
        ("optimizer=adam", "'optimizer' is a section: set one of its keys, e.g. optimizer.lr=VALUE"),
        ("optimizer.lr=abc", "optimizer.lr=abc: expected a valid number"),
        ("model.layers=2.5", "model.layers=2.5: expected a valid integer"),
        ("batch.global=0", "batch.global=0: expected greater than or equal to 1"),
        ("precision=fp8", "precision=fp8: expected 'auto', 'bf16', 'fp16' or 'fp32'"),
        ("vision.mean=[1,2]", "vision.mean=[1,2]: expected 3 values, e.g. vision.mean=[0.485,0.456,0.406]"),
        ("vision.mean=[1,2,3,4]", "vision.mean=[1,2,3,4]: expected 3 values, e.g. vision.mean=["),
        ("vision.crop_scale=0.5", "vision.crop_scale=0.5: expected 2 values, e.g. vision.crop_scale=[0.08,1]"),
        ("model.layers=null", "model.layers=null: expected a valid integer"),
        ("optimizer.lr=1,2", "optimizer.lr=1,2': write key=value"),
        ("optimizer.betas=[0.9,x]", "optimizer.betas.1=x: expected a valid number"),
        ("+optimizer.lr=1", "expected key=value, got '+optimizer.lr=1'"),
        ("optimizer.lr", "expected key=value, got 'optimizer.lr'"),
        ("recipe=vision_large_imagenet_phase2", "needs init=VALUE"),
    ],
)
def test_mistakes_name_the_key_and_the_remedy(override: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        compose_pretrain([override])
    assert message in str(error.value)


@pytest.mark.parametrize("nothing", ["init=", "init=null"])
def test_phase_two_does_not_take_an_empty_init(nothing: str) -> None:
    with pytest.raises(ValueError, match="needs init=VALUE"):
        compose_pretrain(["recipe=vision_large_imagenet_phase2", nothing])


def test_null_is_no_text() -> None:
    assert compose_pretrain(["init=null", "probe.train_shards=null"]) == compose_pretrain([])
    assert parse(BuildConfig, ["source=demo", "output=x", "input=null"]).input == ""
    with pytest.raises(ValueError, match="output=null: expected a valid string"):
        parse(BuildConfig, ["source=demo", "output=null"])


def test_a_missing_value_of_a_list_is_told_once() -> None:
    with pytest.raises(ValueError) as error:
        compose_pretrain(["vision.mean=[1]"])
    assert str(error.value).count("\n") == 0


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"(?s)model.layers=b.*optimizer.lr=a"):
        compose_pretrain(["model.layers=b", "optimizer.lr=a"])


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
