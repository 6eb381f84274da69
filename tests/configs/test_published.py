"""The numbers of the papers and of the authors' configurations."""

import pytest

from configs.compose import GROUPS, compose_pretrain
from configs.published import published_recipe


def test_the_published_numbers() -> None:
    """data2vec paper, section 4.1, and the authors' commands: 1,281,167 images, 800 epochs each."""
    base, phase1, phase2 = (
        compose_pretrain([f"recipe=vision_{name}", "init=phase1"])
        for name in ("base_imagenet", "large_imagenet_phase1", "large_imagenet_phase2")
    )
    assert [c.optimizer.lr for c in (base, phase1, phase2)] == [2e-3, 1e-3, 1e-3]
    assert [c.teacher.decay for c in (base, phase1, phase2)] == [0.9998, 0.9998, 0.9999]
    assert [c.for_modality("vision").model.layer_scale for c in (base, phase1, phase2)] == [1e-4, 1e-5, 1e-5]
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
    assert compose_pretrain(["recipe=vision_large_imagenet_phase1"]).teacher.layers == 6
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
    ("recipe", "objective", "modalities", "size", "published"),
    [
        ("demo", "v1", ("vision",), "tiny", "vision_base_imagenet"),
        ("demo", "v1", ("vision",), "large", "vision_large_imagenet_phase1"),
        ("vision_large_imagenet_phase2", "v1", ("vision",), "tiny", "vision_large_imagenet_phase2"),
        ("speech_base_audioset", "v1", ("speech",), "base", "speech_base_audioset"),
        ("text_large", "v1", ("text",), "large", "text_base_books_wikipedia"),
        ("mixture_base", "v1", ("vision", "text"), "base", None),
        ("vision_base_imagenet", "v2", ("vision",), "base", "vision_base_imagenet_v2"),
        ("vision_huge_imagenet_v2", "v2", ("vision",), "huge", "vision_huge_imagenet_v2"),
        ("text", "v2", ("text",), "small", "text_base_books_wikipedia_v2"),
        ("speech_base_audioset", "v2", ("speech",), "large", "speech_large_librilight_v2"),
    ],
)
def test_a_run_is_compared_with_the_published_recipe_of_its_kind(
    recipe, objective, modalities, size, published
) -> None:
    assert published_recipe(recipe, objective, modalities, size) == published
    assert recipe in GROUPS["recipe"] and published in (None, *GROUPS["recipe"])
