"""Percentages, the teacher's horizon and nulls become numbers, once, when a configuration is composed."""

import math

import pytest

from configs.checks.run import check
from configs.compose import GROUPS, compose_pretrain, from_yaml, to_yaml
from configs.keys import flat, plain

BASE = "recipe=vision_base_imagenet"
NEUTRAL = ("vision", "speech", "text")


@pytest.mark.parametrize("recipe", GROUPS["recipe"])
def test_every_recipe_runs_at_every_size(recipe: str) -> None:
    """Heads, K, masks and positions fit; `model=` is all that a user types."""
    for size in GROUPS["model"]:
        config = compose_pretrain([f"recipe={recipe}", f"model={size}", "init=x"])
        check(config, 1)
        assert config.model.size == size


@pytest.mark.parametrize(
    ("recipe", "model", "blocks"),
    [
        ("vision_base_imagenet", "tiny", 2), ("vision_large_imagenet_phase1", "tiny", 1),
        ("speech_base_audioset", "tiny", 4), ("text_large", "small", 10), ("vision", "small", 10),
        ("speech", "large", 16), ("text", "tiny", 3),
    ],
)  # fmt: skip
def test_the_blocks_of_the_targets_keep_their_share(recipe: str, model: str, blocks: int) -> None:
    config = compose_pretrain([f"recipe={recipe}", f"model={model}"])
    assert config.for_modality(config.modalities[0]).teacher.layers == blocks


def test_shares_of_the_schedule_are_steps() -> None:
    keys = ["schedule.warmup=5%", "schedule.hold=12.5%", "teacher.decay_end=0.9999", "teacher.decay_steps=25%"]
    config = compose_pretrain([BASE, *keys, "train.steps=900", "schedule.steps=1000"])
    assert (config.schedule.warmup, config.schedule.hold, config.teacher.decay_steps) == (50, 125, 250)
    config = compose_pretrain(["recipe=vision", *keys, "train.steps=60"])
    assert (config.schedule.warmup, config.schedule.hold, config.teacher.decay_steps) == (3, 7, 15)


def test_the_teachers_horizon_is_its_last_decay() -> None:
    """A ramp ends there and begins no slower; without a ramp it is the decay throughout."""
    constant = compose_pretrain([BASE, "teacher.horizon=1%"]).teacher
    assert (constant.decay, constant.decay_end, constant.horizon) == (1 - 1 / 5000, None, 5000)
    ramp = compose_pretrain(["recipe=speech_base_librispeech", "teacher.horizon=20000"]).teacher
    assert (ramp.decay, ramp.decay_end, ramp.decay_steps) == (0.999, 1 - 1 / 20000, 30000)
    short = compose_pretrain(["recipe=vision", "train.steps=500"]).teacher
    assert (short.decay, short.decay_end, short.horizon) == (0.99, 0.99, 100)


def test_the_users_decays_replace_a_recipes_horizon() -> None:
    teacher = compose_pretrain(["recipe=vision", "teacher.decay=0.5"]).teacher
    assert (teacher.decay, teacher.decay_end, teacher.decay_steps, teacher.horizon) == (0.5, None, 0, None)
    teacher = compose_pretrain(["recipe=vision", "teacher.decay_end=0.9", "train.steps=100"]).teacher
    assert (teacher.decay, teacher.decay_end, teacher.decay_steps) == (0.999, 0.9, 25)
    with pytest.raises(ValueError, match="teacher.horizon and teacher.decay both .*: leave out one of them"):
        compose_pretrain(["recipe=vision", "teacher.decay=0.5", "teacher.horizon=9"])


@pytest.mark.parametrize("recipe", NEUTRAL)
@pytest.mark.parametrize("steps", [1, 2, 19, 60, 1000, 10**6])
def test_neutral_recipes_fit_runs_of_any_length(recipe: str, steps: int) -> None:
    config = compose_pretrain([f"recipe={recipe}", f"train.steps={steps}"])
    check(config, 1)
    assert config.schedule.warmup == steps // 20
    end = config.teacher.decay if config.teacher.decay_end is None else config.teacher.decay_end
    assert 0 <= end < 1 and config.teacher.decay <= end


def test_the_learning_rate_follows_batch_and_width() -> None:
    """The published rate at the published batch and width; times the root of the batch, and one over the width."""

    def rate(*overrides: str) -> float:
        return compose_pretrain(list(overrides)).optimizer.lr

    published = [("vision", 256, 1e-3), ("speech", 320, 5e-4), ("text", 256, 2e-4)]
    for recipe, batch, lr in published:
        assert rate(f"recipe={recipe}", "model=base", f"batch.global={batch}") == lr
        assert rate(f"recipe={recipe}", "model=base", f"batch.global={4 * batch}") == pytest.approx(2 * lr, rel=1e-2)
        assert rate(f"recipe={recipe}", "model=small", f"batch.global={batch}") == pytest.approx(2 * lr, rel=1e-2)
    assert rate("recipe=vision", "optimizer.lr=0.1", "batch.global=8") == 0.1, "the user's word"
    assert rate("recipe=mixture_base", "optimizer.lr=null", "batch.global=256") == 2e-4, "the most careful of all"
    assert rate(BASE) == rate(BASE, "batch.global=64") == 2e-3, "a published recipe keeps its number"


def test_the_users_objective_v1_takes_back_what_the_recipe_says_of_v2() -> None:
    config = compose_pretrain(["recipe=vision", "objective=v1"])
    check(config, 1)
    assert (config.masks.count, config.decoder.layers, config.loss.cls) == (None, None, None)
    assert compose_pretrain(["recipe=vision"]).masks.count == 4
    with pytest.raises(ValueError, match="masks.count is of data2vec 2.0: add objective=v2, or leave it out"):
        check(compose_pretrain(["recipe=vision", "objective=v1", "masks.count=3"]), 1)


@pytest.mark.parametrize(
    ("side", "patch"),
    [(16, 2), (28, 2), (32, 4), (48, 6), (64, 8), (96, 12), (128, 16), (200, 10), (224, 16), (512, 16)],
)
def test_patches_and_masks_follow_the_image(side: int, patch: int) -> None:
    config = compose_pretrain(["recipe=vision", f"vision.image_size={side}"])
    check(config, 1)
    vision = config.vision
    assert vision.patch_size == patch and 0.55 < vision.mask.patches / vision.tokens < 0.65
    assert vision.mask.max_block == vision.tokens


def test_the_published_geometry_is_the_rules_too() -> None:
    config = compose_pretrain(["recipe=vision", "vision.image_size=224"]).vision
    assert (config.patch_size, config.mask.patches, config.mask.min_block) == (16, 120, 16)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("schedule.warmup=101%", "schedule.warmup=101%: at most 100%"),
        ("schedule.warmup=-5%", "schedule.warmup=-5%: expected a valid integer"),
        ("schedule.warmup=5 percent", "schedule.warmup=5 percent: expected a valid integer"),
        ("train.steps=50%", "train.steps=50%: expected a valid integer"),
        ("train.steps=abc schedule.warmup=5%", "train.steps=abc: expected a valid integer"),
        ("schedule.steps=-7 teacher.horizon=5%", "schedule.steps=-7: expected greater than or equal to 1"),
        ("teacher.horizon=0.5", "teacher.horizon=0.5: expected greater than or equal to 1"),
        ("recipe=vision vision.image_size=97", "vision.patch_size=16 must divide vision.image_size=97"),
        ("recipe=vision batch.global=abc", "batch.global=abc: expected a valid integer"),
        ("recipe=vision vision.image_size=" + "9" * 400, "vision.image_size="),
    ],
)
def test_a_mistake_is_one_line_of_the_key_that_was_typed(overrides: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        check(compose_pretrain(overrides.split(" ") if "percent" not in overrides else [overrides]), 1)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("recipe", NEUTRAL)
def test_what_a_run_writes_down_are_the_numbers(tmp_path, recipe: str) -> None:
    config = compose_pretrain([f"recipe={recipe}", "train.steps=800"])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert from_yaml(tmp_path / "config.yaml") == config
    assert not [key for key, value in flat(plain(config)).items() if isinstance(value, str) and "%" in value]
    assert math.isfinite(config.optimizer.lr)
