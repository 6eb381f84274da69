import numpy as np
import pytest

from data_shards.speech.audio import audio_samples, read_audio, read_part
from data_shards.speech.containers.ogg import ogg_streams
from tests.data_shards.speech.recorded import NOISE, encoded, last_granule, pages

VORBIS = encoded(np.tile(NOISE, 3), kind="OGG", subtype="VORBIS")
OPUS = encoded(NOISE, 48000, "OGG", "OPUS")


@pytest.mark.parametrize("data", [VORBIS, OPUS])
def test_every_link_of_a_chain_is_decoded(data):
    whole, other = read_audio(data), encoded(np.stack([NOISE, NOISE], 1), 44100, "OGG", "VORBIS")
    chain = data + other + data
    assert len(ogg_streams(data)) == 1 and len(ogg_streams(chain)) == 3
    samples = read_audio(chain)
    assert np.array_equal(samples, np.concatenate([whole, read_audio(other), whole]))
    assert audio_samples(chain) == len(samples)
    last = slice(len(samples) - 500, len(samples))
    assert np.array_equal(read_part(chain, lambda count: slice(count - 500, count)), samples[last])


@pytest.mark.parametrize("data", [VORBIS, OPUS])
@pytest.mark.parametrize("granule", [-1, 0, 7, 10**6, 10**15])
def test_a_wrong_length_is_said(data, granule):
    with pytest.raises(ValueError, match="cut off|ends before an earlier one|more than"):
        read_audio(last_granule(data, granule))


def test_missing_and_cut_pages_are_said():
    begin, end = pages(VORBIS)[4]
    with pytest.raises(ValueError, match=f"damaged Ogg: page 5 at byte {begin} follows page 3"):
        read_audio(VORBIS[:begin] + VORBIS[end:])
    with pytest.raises(ValueError, match=r"cut off: the last page, at byte \d+, is not whole"):
        read_audio(VORBIS[:-10])
    with pytest.raises(ValueError, match="damaged Ogg: no page at byte"):
        read_audio(VORBIS + b"more")
    damaged = bytearray(VORBIS)
    damaged[(begin + end) // 2] ^= 1
    with pytest.raises(ValueError, match="cut off"):
        read_audio(bytes(damaged))
    assert len(ogg_streams(VORBIS + bytes(100))) == 1
