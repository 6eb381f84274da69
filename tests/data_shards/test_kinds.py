"""What a sample is, and its length, from its members."""

import numpy as np

from configs.signals import frames
from data_shards.kinds import length_of
from data_shards.speech.audio import flac


def test_the_length_of_a_recording_is_in_frames_and_0_where_it_is_damaged():
    data = flac(np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16))
    assert length_of({"flac": data, "cls": b"1"}) == frames(5000)
    assert length_of({"flac": b"no audio"}) == 0
