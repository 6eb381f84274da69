"""Sizes of samples that follow from the keys, and values out of bounds."""

import pytest

from configs.compose import compose_pretrain
from configs.schema_modalities import MODALITIES, SpeechConfig, TextConfig, VisionConfig


def test_patches_of_an_image() -> None:
    assert (VisionConfig().grid, VisionConfig().tokens) == (14, 196)
    assert VisionConfig(image_size=30, patch_size=4).tokens == 49, "what is left of a patch is none"


def test_only_images_are_of_one_size() -> None:
    longest = [VisionConfig().longest, SpeechConfig(max_seconds=1).longest, TextConfig(max_tokens=64).longest]
    assert longest == [None, 49, 64]
    assert len(longest) == len(MODALITIES)


@pytest.mark.parametrize(
    "override",
    ["vision.jitter=1.1", "vision.flip=-0.1", "speech.max_seconds=0", "speech.sample_rate=8000", "text.vocab_size=5",
     "text.max_tokens=7", "text.mask.fraction=1", "text.mask.kind=words", "speech.crop=longest"],
)  # fmt: skip
def test_values_out_of_bounds_are_refused_by_key(override: str) -> None:
    with pytest.raises(ValueError, match=f"^{override}: expected "):
        compose_pretrain([override])
