"""Rules across keys: each broken one is named, with a remedy that holds."""

import pytest

from configs.checks.run import check, resolve_lanes, resolve_precision
from configs.compose import compose_pretrain

ISSUE = "recipe=vision_large_imagenet_phase1 train.steps=3 batch.global=4 batch.micro=1"


@pytest.mark.parametrize(
    ("overrides", "world"),
    [
        ("", 2),
        ("modality=speech", 2),
        ("modality=text", 2),
        ("modality=[vision,speech,text]", 2),
        ("recipe=vision_base_imagenet", 16),
        ("recipe=vision_large_imagenet_phase1", 64),
        ("recipe=speech_base_librispeech", 16),
        ("recipe=speech_large_librilight", 64),
        ("recipe=speech_base_audioset", 24),
        ("recipe=text_base_books_wikipedia", 16),
        ("recipe=text_large", 32),
        ("recipe=mixture_base", 32),
        ("recipe=vision_base_imagenet_v2", 16),
        ("recipe=vision_large_imagenet_v2", 16),
        ("recipe=vision_huge_imagenet_v2", 32),
        ("recipe=speech_base_librispeech_v2", 8),
        ("recipe=speech_large_librilight_v2", 32),
        ("recipe=text_base_books_wikipedia_v2", 16),
        ("recipe=text_large_v2", 32),
        (ISSUE, 2),
    ],
)
def test_recipes_hold_on_their_published_ranks(overrides: str, world: int) -> None:
    check(compose_pretrain(overrides.split()), world)


SPEECH, TEXT, MIXED = "modality=speech", "modality=text", "modality=[vision,text]"
BATCH = "batch.global=128 batch.micro=64"
GRID = "objective=v1 vision.image_size=28 vision.patch_size=4 vision.mask.patches=30 vision.mask.max_block=49"


@pytest.mark.parametrize(
    ("overrides", "world", "message", "remedy"),
    [
        (f"{BATCH} batch.micro=48", 2, "batch.micro=48 must divide the 64 samples of a rank", "batch.micro=32"),
        (f"{BATCH} data.lanes=7", 2, "data.lanes=7 must divide batch.global=128", "data.lanes=64"),
        (f"{BATCH} data.lanes=2", 4, "4 ranks must divide data.lanes=2", "data.lanes=64 batch.micro=32"),
        (BATCH, 3, "3 ranks must divide data.lanes=128", "batch.global=129 batch.micro=43"),
        ("model.norm=post model.drop_path=0.1", 2, "model.drop_path=0.1 is for pre-norm blocks", "model.drop_path=0"),
        ("init_teacher=true", 2, "takes the teacher of init, which is empty: add init=DIR", "init_teacher=false"),
        ("schedule.warmup=9 schedule.hold=3000", 2, "schedule.hold=3000 must be below", "schedule.hold=0"),
        ("schedule.warmup=0 schedule.hold=3000", 2, "schedule.hold=3000 must be below", "schedule.hold=0"),
        ("schedule.kind=exponential schedule.lr_end=0", 2, "exponential needs schedule.lr_end", "schedule.lr_end=1e-5"),
        ("schedule.lr_start=1", 2, "schedule.lr_start=1 must be at most", "schedule.lr_start=0"),
        (f"{SPEECH} speech.max_seconds=0.2", 2, "masked span has speech.mask.length=10", "speech.max_seconds=0.25"),
        (f"{SPEECH} speech.position_kernel=4", 2, "position_kernel=4 must be odd", "speech.position_kernel=5"),
        (f"{SPEECH} speech.position_groups=3", 2, "must divide model.width=128", "speech.position_groups=8"),
        (
            f"{SPEECH} speech.max_seconds=4 batch.micro_tokens=50",
            2,
            "does not hold one sample of 199",
            "batch.micro_tokens=199",
        ),
        (f"{TEXT} text.mask.length=62", 2, "leaves nothing of text.max_tokens=64", "text.mask.length=4"),
        (f"{TEXT} batch.micro_tokens=63", 2, "does not hold one sample of 64", "batch.micro_tokens=64"),
        (
            f"{TEXT} text.mask.kind=tokens text.mask.random=0.5 text.mask.keep=0.5",
            2,
            "leave no target",
            "text.mask.random=0.1 text.mask.keep=0.1",
        ),
        (f"{MIXED} teacher.layers=9", 2, "teacher.layers=9 must be at most", "teacher.layers=4"),
        ("recipe=demo data.shards=/a data.weights=[2,1]", 2, "data.weights=[2,1] needs a list", "data.weights=null"),
        ("recipe=demo data.shards=[/a,/b] data.weights=[2]", 2, "has 1 weights for the 2 items", "data.weights=[1,1]"),
        (
            "recipe=demo data.shards=[/a,/b] data.weights=[20000,1]",
            2,
            "at most 10000: e.g. data.weights=[4999,1]",
            "data.weights=[4999,1]",
        ),
        (
            f"recipe=demo_mixture {MIXED} mixture.text.shards=[/a,/b] mixture.text.weights=[1]",
            2,
            "text: mixture.text.weights=[1] has 1 weights for the 2 items of mixture.text.shards",
            "mixture.text.weights=[1,1]",
        ),
        (f"{MIXED} mixture.vision.micro=48", 2, "vision: mixture.vision.micro=48 must", "mixture.vision.micro=32"),
        ("model.heads=3", 2, "model.heads=3 must divide model.width=128", "model.heads=8"),
        ("teacher.layers=9", 2, "teacher.layers=9 must be at most model.layers=4", "teacher.layers=4"),
        ("vision.patch_size=5", 2, "vision.patch_size=5 must divide vision.image_size=28", "vision.patch_size=4"),
        (
            f"{GRID} vision.mask.patches=49",
            2,
            "vision.mask.patches=49 must be below the 7 x 7",
            "vision.mask.patches=30",
        ),
        (f"{GRID} vision.mask.min_block=31", 2, "min_block=31 must be at most", "vision.mask.min_block=30"),
        (f"{GRID} vision.mask.min_block=40", 2, "min_block=40 does not fit into the 7 x 7", "vision.mask.min_block=9"),
        ("vision.crop_scale=[1,0.5]", 2, "crop_scale=[1,0.5]: give a positive range", "vision.crop_scale=[0.5,1]"),
        ("teacher.decay_steps=0 teacher.decay_end=0.9", 2, "needs teacher.decay_steps", "teacher.decay_steps=9"),
        ("teacher.decay_steps=9 teacher.decay_end=null", 2, "needs teacher.decay_end", "teacher.decay_end=1"),
        (
            "schedule.steps=50 schedule.warmup=60",
            2,
            "schedule.warmup=60 must be below",
            "schedule.warmup=5 train.steps=40",
        ),
        ("train.steps=99999 schedule.lr_end=0", 2, "learning rate is 0", "schedule.steps=99999"),
        ("schedule.lr_end=2", 2, "schedule.lr_end=2 must be at most optimizer.lr", "schedule.lr_end=0"),
        ("optimizer.betas=[0.9,1]", 2, "optimizer.betas=[0.9,1]: each must be", "optimizer.betas=[0.9,0.98]"),
        ("deepspeed=zero0 deepspeed.offload_optimizer=true", 2, "offload_optimizer=true needs ZeRO", "deepspeed=zero1"),
        ("probe.train_shards=x", 2, "probe.test_shards is empty", "probe.test_shards=x"),
        (
            "checkpoint.every=500 checkpoint.keep_every=1200",
            2,
            "checkpoint.keep_every=1200 must be a multiple of checkpoint.every=500",
            "checkpoint.keep_every=1000",
        ),
        (
            "checkpoint.every=0 guard.spike=rollback",
            2,
            "guard.spike=rollback needs checkpoints to go back to",
            "checkpoint.every=500",
        ),
    ],
)
def test_a_broken_rule_is_named_and_its_remedy_holds(overrides: str, world: int, message: str, remedy: str) -> None:
    with pytest.raises(ValueError) as error:
        check(compose_pretrain(overrides.split()), world)
    assert message in str(error.value)
    check(compose_pretrain([*overrides.split(), *remedy.split()]), world)


def test_all_broken_rules_are_told_at_once() -> None:
    with pytest.raises(ValueError, match="(?s)model.heads.*teacher.layers.*batch.micro"):
        check(compose_pretrain(["model.heads=3", "teacher.layers=9", "batch.micro=127"]), 1)


def test_fp16_is_refused_without_a_gpu() -> None:
    with pytest.raises(ValueError, match="precision=fp16 needs a GPU.*precision=fp32"):
        resolve_precision(compose_pretrain(["precision=fp16"]), cuda=False)
    assert resolve_precision(compose_pretrain(["precision=fp16"]), cuda=True) == "fp16"
    assert [resolve_precision(compose_pretrain([]), cuda) for cuda in (True, False)] == ["bf16", "fp32"]


def test_default_lanes_are_the_largest_divisor_up_to_768() -> None:
    assert [resolve_lanes(size, None) for size in (7, 64, 2048, 4608)] == [7, 64, 512, 768]
    assert resolve_lanes(64, 16) == 16
    assert [resolve_lanes(size, None, "tokens") for size in (7, 64, 2048, 4608)] == [1, 8, 256, 576]


def test_weights_of_a_modality_of_a_mixture_are_its_own() -> None:
    config = compose_pretrain(
        ["recipe=demo_mixture", "modality=[vision,text]", "mixture.text.shards=[/a,/b]", "mixture.text.weights=[2,1]"]
    )
    assert config.for_modality("text").data.weights == (2, 1) and config.for_modality("vision").data.weights is None
    check(config, 2)
    check(compose_pretrain(["data.epoch=source"]), 2)


def test_steps_of_equal_tokens_are_of_speech_and_text_alone() -> None:
    config = compose_pretrain(["modality=[vision,text]", "batch.equal=tokens", "batch.global=64"])
    assert [config.for_modality(modality).batch.equal for modality in ("vision", "text")] == ["samples", "tokens"]
    check(config, 2)
