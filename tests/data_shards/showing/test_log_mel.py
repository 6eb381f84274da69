"""Spectrograms."""

import math

import torch

from data_shards.showing.log_mel import MELS, log_mel
from tests.pretrain.reporting.test_pictures import clips


def test_a_tone_lies_in_its_band_and_a_column_is_a_frame():
    bands = log_mel(clips())
    assert bands.shape == (2, 20, MELS)
    mel = [2595 * math.log10(1 + hertz / 700) for hertz in (500, 4000, 8000)]
    expected = [round(mel[i] / mel[2] * (MELS + 1)) - 1 for i in range(2)]
    assert (bands.argmax(2) == torch.tensor(expected)[:, None]).all()
