"""What follows from the keys of one modality."""

from dataclasses import FrozenInstanceError

import pytest

from configs.published import PUBLISHED
from configs.schema import PretrainConfig
from configs.schema_modalities import MODALITIES, SpeechConfig, TextConfig


@pytest.mark.parametrize("modality", MODALITIES)
def test_published_values_are_those_of_the_modality(modality) -> None:
    assert PretrainConfig(modality=MODALITIES).for_modality(modality).published is PUBLISHED["v1", modality]


def test_the_longest_sample_is_that_of_the_modality() -> None:
    config = PretrainConfig(modality=MODALITIES, speech=SpeechConfig(max_seconds=1), text=TextConfig(max_tokens=64))
    assert [config.for_modality(modality).longest for modality in MODALITIES] == [None, 49, 64]


def test_it_cannot_be_changed_behind_the_runs_back() -> None:
    with pytest.raises(FrozenInstanceError):
        PretrainConfig().for_modality("vision").seed = 1  # type: ignore[misc]
