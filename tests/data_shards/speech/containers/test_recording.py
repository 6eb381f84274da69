import numpy as np
import pytest

from data_shards.speech.audio import read_audio
from data_shards.speech.containers.recording import streams
from tests.data_shards.speech.recorded import NOISE, encoded, flac_total

TAG = b"ID3\4\0\0\0\0\0\x0a" + bytes(10)


@pytest.mark.parametrize("kind", ["FLAC", "WAV", "OGG", "MP3"])
def test_a_tag_may_come_first(kind):
    data = encoded(kind=kind, subtype={"OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}.get(kind, "PCM_16"))
    assert np.array_equal(read_audio(TAG + data), read_audio(data))


def test_lengths_hold_behind_a_tag_and_in_a_view():
    data = memoryview(TAG + flac_total(encoded(kind="FLAC"), 5000))
    assert len(read_audio(data)) == len(NOISE)


@pytest.mark.parametrize("first", [b"", TAG])
def test_joined_flac_is_read_to_its_end(first):
    one, two = encoded(kind="FLAC"), flac_total(encoded(NOISE[:30_000], kind="FLAC"), 999)
    for data in (first + one + two + one, memoryview(first + one + two + one)):
        expected = np.concatenate([read_audio(one), read_audio(two), read_audio(one)])
        assert len(expected) == 2 * len(NOISE) + 30_000 and np.array_equal(read_audio(data), expected)


def test_bytes_of_an_unknown_kind_are_one_stream():
    assert [stream.data for stream in streams(b"something")] == [b"something"]
