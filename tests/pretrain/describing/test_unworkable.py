"""Each warning names a key and a remedy, and the remedy holds."""

from __future__ import annotations

import pytest

from configs.checks.run import check
from configs.compose import GROUPS, compose_pretrain
from pretrain.describing.memory import Memory
from pretrain.describing.unworkable import forgotten, of_configuration, of_data, of_memory


def remedied(line: str) -> list[str]:
    """The keys that a warning says to set."""
    return [word.rstrip(",") for word in line.rpartition(" set ")[2].partition(" or ")[0].split() if "=" in word]


@pytest.mark.parametrize("recipe", ["vision_base_imagenet", "speech_base_librispeech", "text_base_books_wikipedia"])
@pytest.mark.parametrize("steps", [1, 60, 700])
def test_a_published_recipe_on_few_steps_is_warned_of_and_the_remedies_hold(recipe: str, steps: int) -> None:
    overrides = [f"recipe={recipe}", f"train.steps={steps}"]
    lines = list(of_configuration(compose_pretrain(overrides)))
    assert lines[0].startswith(f"train.steps={steps} ends within schedule.warmup=") and "optimizer.lr" in lines[0]
    assert (len(lines) == 2) == (steps < 700 or recipe != "text_base_books_wikipedia"), "half-lives 3465 and 693"
    mended = compose_pretrain([*overrides, *(key for line in lines for key in remedied(line))])
    if steps > 1:
        check(mended, world=1)
        assert list(of_configuration(mended)) == []


@pytest.mark.parametrize("recipe", GROUPS["recipe"])
def test_no_recipe_as_it_is_is_warned_of(recipe: str) -> None:
    init = ["init=x"] if recipe.endswith(("phase2", "_continued")) else []
    assert list(of_configuration(compose_pretrain([f"recipe={recipe}", *init]))) == []


def test_the_teacher_is_judged_by_its_whole_ramp() -> None:
    ramp = ["teacher.decay=0.9", "teacher.decay_end=0.99999", "teacher.decay_steps=20", "schedule.steps=2400"]
    assert list(of_configuration(compose_pretrain([*ramp, "train.steps=200"]))) == []
    config = compose_pretrain(["teacher.decay=0.5", "teacher.decay_end=null", "teacher.decay_steps=0"])
    assert forgotten(config, 1) == 1
    still = compose_pretrain(["teacher.decay=1", "teacher.decay_end=null", "teacher.decay_steps=0"])
    assert forgotten(still, 10**9) == 0
    assert list(of_configuration(compose_pretrain(["train.steps=0"]))) == []


@pytest.mark.parametrize(
    ("samples", "world", "remedy"),
    [
        (200, 1, "set batch.global=20 batch.micro=20, or add samples"),
        (350, 2, "set batch.global=34 batch.micro=17, or add samples"),
        (600, 1, "set batch.global=32, or add samples"),
        (15, 2, "add samples"),
    ],
)
def test_an_epoch_of_few_steps_is_warned_of_and_the_remedy_holds(samples: int, world: int, remedy: str) -> None:
    overrides = ["recipe=demo", "batch.global=64", "batch.micro=32"]
    steps = samples // 64
    (line,) = of_data(compose_pretrain(overrides), {"vision": (samples, steps)}, world)
    assert line.startswith(f"data.shards has {samples} samples, and batch.global=64 takes them in {steps} step")
    assert line.endswith(f"an epoch: {remedy}")
    mended = compose_pretrain([*overrides, *remedied(line)])
    check(mended, world)
    assert "batch.global" not in remedy or samples // mended.batch.global_ >= 10
    assert list(of_data(mended, {"vision": (samples, 10)}, world)) == []


def test_in_a_mixture_the_keys_are_those_of_the_modality() -> None:
    overrides = ["recipe=mixture_base", "data.lanes=8", "mixture.speech.global=16"]
    sizes = {"vision": (10**6, 900), "speech": (50, 3), "text": (10**6, 900)}
    (line,) = of_data(compose_pretrain(overrides), sizes, 1)
    assert line == (
        "speech: mixture.speech.shards has 50 samples, and mixture.speech.global=16 takes them in 3 steps an epoch: "
        "set mixture.speech.global=5 data.lanes=null, or add samples"
    )


def test_memory_that_does_not_suffice_is_told_before_it_runs_out() -> None:
    assert list(of_memory(Memory(2**30, 2**30), 2**31)) == []
    (line,) = of_memory(Memory(2**33, 2**34), 2**33)
    assert line.startswith("memory: about 24 GiB are needed, and a rank has 8 GiB: lower batch.micro")
