import numpy as np
import pytest

from data_shards.speech.containers.flac import flac_stream
from tests.data_shards.speech.recorded import NOISE, encoded, flac_total

FLAC = encoded(kind="FLAC")


@pytest.mark.parametrize("count", [1, 200, 4095, 4096, 4097, 12288, 80_000])
@pytest.mark.parametrize("rate", [16000, 44100, 12345])
def test_a_right_length_is_believed(count, rate):
    data = encoded(NOISE[:count], rate, "FLAC")
    assert flac_stream(data, 0).data is data


@pytest.mark.parametrize("total", [1, 4096, 40_960, 79_999, 80_001, 2**36 - 1])
def test_a_wrong_length_is_taken_out(total):
    stream = flac_stream(flac_total(FLAC, total), 0)
    assert stream.promised == total and stream.data == flac_total(FLAC, 0)


def test_frames_that_do_not_fit_the_tail_are_not_believed():
    loud = np.random.default_rng(0).integers(-(2**31), 2**31, (60_000, 8), dtype=np.int64).astype(np.int32)
    assert flac_stream(encoded(loud, kind="FLAC", subtype="PCM_24"), 0).promised is None
    assert flac_stream(FLAC[:42] + bytes(300_000), 0).promised == 80_000
    assert flac_stream(b"fLaC", 0).data == b"fLaC"
