import numpy as np
import pytest

from data_shards.speech.audio import audio_samples, read_audio, read_part
from data_shards.speech.containers.mpeg import mpeg_stream
from tests.data_shards.speech.recorded import NOISE, mp3, told, without_xing

TAG = b"ID3\4\0\0\0\0\0\x0a" + bytes(10)
MP3 = mp3()
FRAMES = int.from_bytes(MP3[MP3.index(b"Xing") + 8 :][:4], "big")
GAPS = 0.1  # seconds at most that the encoder adds to a file, and that only its own header takes off


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_a_right_header_is_believed(rate):
    data = mp3(rate=rate)
    assert mpeg_stream(data).data == data
    assert len(read_audio(data)) == audio_samples(data) == (2 * len(NOISE) * 16000 + rate) // (2 * rate)


@pytest.mark.parametrize(
    ("data", "copies"),
    [
        (without_xing(MP3), 1),
        (told(MP3, 0), 1),
        (told(MP3, FRAMES // 2), 1),
        (told(MP3, FRAMES + 1), 1),  # some programs count the header's frame as well
        (MP3.replace(b"Xing", b"none"), 1),
        (MP3 + MP3 + MP3, 3),
        (TAG + MP3 + b"TAG" + b"x" * 125 + TAG + without_xing(MP3) + bytes(1000), 2),
    ],
    ids=["no header", "0", "too few", "one more", "unknown header", "joined", "joined with tags"],
)
def test_the_whole_is_decoded_whatever_a_header_says(data, copies):
    samples = read_audio(data)
    assert 0 <= len(samples) - copies * len(NOISE) < copies * GAPS * 16000
    assert audio_samples(data) == len(samples)
    place = slice(len(samples) - 9000, len(samples) - 5000)
    assert np.array_equal(read_part(data, lambda _: place), samples[place])
    assert samples[place].std() > 5000  # no silence


def test_what_is_missing_or_damaged_is_said():
    with pytest.raises(ValueError, match=rf"cut off, .*: \d+ of {FRAMES} frames"):
        read_audio(MP3[: len(MP3) // 2])
    with pytest.raises(ValueError, match="cut off"):
        read_audio(told(MP3, 10**6))
    frame = MP3.index(MP3[:2], len(MP3) // 2)
    for hole in (b"\0\0", bytes(5000)):
        with pytest.raises(ValueError, match=f"damaged MP3: .* from byte {frame} on are no frame"):
            read_audio(MP3[:frame] + hole + MP3[frame + len(hole) :])
    with pytest.raises(ValueError, match="changes from layer 3, 16000 Hz, mono to layer 3, 44100 Hz, mono at byte"):
        read_audio(MP3 + mp3(rate=44100))
    with pytest.raises(ValueError, match="mono to layer 3, 16000 Hz, stereo"):
        read_audio(MP3 + mp3(np.stack([NOISE, NOISE], 1)))
    for data in (b"\xff\xfb" + b"\xf0" * 5000, TAG, MP3[:100]):
        with pytest.raises(ValueError, match="no audio that can be read"):
            read_audio(data)


@pytest.mark.parametrize(
    ("header", "size", "samples"), [(b"\xff\xfd\x54\xc4", 240, 1152), (b"\xff\xff\x54\xc4", 160, 384)]
)
def test_layers_1_and_2_are_counted_by_their_frames(header, size, samples):
    """Silence at 48 kHz: libsndfile would estimate its length from the first frame."""
    frame = header + bytes(size - 4)
    padded = frame[:2] + bytes([frame[2] | 2]) + frame[3:] + bytes(4 if samples == 384 else 1)
    data = padded + frame * 99
    assert len(read_audio(data)) == audio_samples(data) == 100 * samples // 3


def test_bytes_that_look_like_frames_take_no_time():
    """The search for the next frame goes over a file once."""
    assert len(read_audio(TAG + b"\xff\xe0" * 300_000 + MP3)) >= len(NOISE)
