import struct

import numpy as np
import pytest

from data_shards.speech.audio import audio_samples, read_audio
from data_shards.speech.containers.chunked import chunked_stream
from tests.data_shards.speech.recorded import NOISE, encoded, put

BYTES = 2 * len(NOISE)
FIELDS = {
    "WAV": (lambda d: d.index(b"data") + 4, "<I", 0),
    "RIFX": (lambda d: d.index(b"data") + 4, ">I", 0),
    "RF64": (lambda d: 28, "<Q", 0),
    "AIFF": (lambda d: d.index(b"SSND") + 4, ">I", 8),
    "W64": (lambda d: d.rindex(b"data\xf3") + 16, "<Q", 24),
    "CAF": (lambda d: d.index(b"data") + 4, ">q", 4),
    "AU": (lambda d: 8, ">I", 0),
}
"""Place and type of the length in bytes, and what it counts beside the audio."""


def data_of(kind):
    return encoded(kind="WAV", endian="BIG") if kind == "RIFX" else encoded(kind=kind)


@pytest.mark.parametrize("kind", FIELDS)
@pytest.mark.parametrize("said", [0, BYTES // 2, BYTES, BYTES + 2, 3 * BYTES])
def test_wrong_lengths_are_read_to_the_end_or_said(kind, said):
    place, form, more = FIELDS[kind]
    data = data_of(kind)
    data = put(data, place(data), form, said + more)
    if said == BYTES or (said == 0 and kind in ("WAV", "RIFX")):
        assert len(read_audio(data)) == audio_samples(data) == len(NOISE)
    else:
        for use in (read_audio, audio_samples):
            with pytest.raises(
                ValueError, match=r"cut off, or a wrong length|says \d+ bytes of audio, and \d+ (more )?f"
            ):
                use(data)


@pytest.mark.parametrize(
    ("kind", "said"),
    [(kind, said) for kind in ("WAV", "AIFF") for said in (0xFFFFFFFF, 0x7FFFFFFF)] + [("AU", 0xFFFFFFFF)],
)
def test_lengths_of_programs_that_wrote_to_a_pipe_are_none(kind, said):
    place, form, _ = FIELDS[kind]
    data = data_of(kind)
    assert len(read_audio(put(data, place(data), form, said))) == len(NOISE)


@pytest.mark.parametrize("kind", [*FIELDS, "NIST"])
def test_a_cut_off_file_is_said(kind):
    with pytest.raises(ValueError, match="cut off"):
        read_audio(data_of(kind)[:-3000])


def sphere(count):
    data = encoded(kind="NIST")
    head = data[:1024].replace(b"sample_count -i 80000", b"sample_count -i " + count)
    return head.rstrip(b"\0").ljust(1024, b"\0") + data[1024:]


def test_sphere_counts_samples():
    assert len(read_audio(sphere(b"80000"))) == len(NOISE)
    for count in (b"0", b"40000", b"79999", b"90000"):
        with pytest.raises(ValueError, match="wrong length|says"):
            read_audio(sphere(count))


def test_chunks_tags_and_padding_may_follow():
    data = encoded()
    for more in (
        b"LIST" + struct.pack("<I", 10) + b"INFOabcdef",
        b"id3 " + struct.pack("<I", 5) + b"abcde",  # without the byte that would make it even
        bytes(4000),
        b"TAG" + b"x" * 125,
    ):
        assert chunked_stream(data + more).data == data + more
    with pytest.raises(ValueError, match="says 160000 bytes of audio, and 4000 more follow"):
        chunked_stream(data + b"\x07\x80" * 2000)


def test_an_empty_file_is_empty_and_odd_sizes_are_right():
    empty = encoded(NOISE[:0])
    assert audio_samples(empty) == audio_samples(empty + b"LIST" + struct.pack("<I", 10) + b"INFOabcdef") == 0
    odd = encoded(NOISE[:999], subtype="PCM_U8")
    assert audio_samples(odd) == audio_samples(odd[:-1]) == 999  # with and without the byte that makes it even
    stereo = encoded(np.stack([NOISE, NOISE], 1), subtype="PCM_24")
    assert audio_samples(stereo) == len(NOISE)


@pytest.mark.parametrize(
    "data",
    [b"RIFF", b"RIFF" + bytes(40), b"caff" + bytes(8), b"NIST_1A\n   x", b".snd", b"riff", b"riff" + b"\xff" * 90],
)
def test_damaged_headers_are_left_to_the_decoder(data):
    assert chunked_stream(data).data == data
    with pytest.raises(ValueError, match="no audio that can be read"):
        read_audio(data)
