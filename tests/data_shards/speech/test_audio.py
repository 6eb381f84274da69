import io

import numpy as np
import pytest
import soundfile

from data_shards.speech.audio import audio_samples, flac, is_stored_form, read_audio, read_part, read_recording
from data_shards.speech.decoder import TooLong


def tone(seconds=1.0, rate=16000, frequency=440.0, level=0.5):
    """float64 [S]."""
    return level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def encoded(samples, rate=16000, kind="WAV", subtype="PCM_16"):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def test_flac_is_lossless_and_the_stored_form():
    samples = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    data = flac(samples)
    assert np.array_equal(read_audio(data), samples)
    assert is_stored_form(data) and not is_stored_form(encoded(samples))
    assert audio_samples(data) == 5000


@pytest.mark.parametrize(
    ("kind", "subtype", "rate", "error"),
    [
        ("WAV", "PCM_U8", 16000, 1 / 128),
        ("WAV", "PCM_24", 16000, 1 / 32768),
        ("WAV", "FLOAT", 48000, 1e-3),
        ("FLAC", "PCM_16", 44100, 1e-3),
        ("WAV", "PCM_16", 8000, 1e-3),
        ("OGG", "VORBIS", 16000, 0.05),
        ("OGG", "OPUS", 48000, 0.05),
        ("MP3", "MPEG_LAYER_III", 44100, 0.05),
    ],
)
def test_any_format_and_rate_becomes_16_khz(kind, subtype, rate, error):
    data = encoded(tone(rate=rate), rate, kind, subtype)
    samples = read_audio(data)
    assert samples.dtype == np.int16
    assert abs(len(samples) - 16000) <= 200 and abs(audio_samples(data) - len(samples)) <= 1
    middle = slice(2000, 14000)  # the ends of a resampled or lossy tone ring
    assert np.abs(samples[middle] / 32768 - tone()[middle]).max() < error


def test_what_mono_of_16_bits_cannot_keep_is_counted():
    wave = tone(level=0.9)
    assert read_recording(encoded(wave)).clipped == 0 == read_recording(encoded(wave, subtype="FLOAT")).clipped
    loud = np.where(np.arange(16000) % 4000 == 9, 1.5, wave)
    assert read_recording(encoded(loud, subtype="FLOAT")).clipped == 4
    for other, cancels in (
        (-wave, True),
        (wave, False),
        (0 * wave, False),
        (-0.9 * wave, False),
        (-0.999 * wave, True),
    ):
        assert read_recording(encoded(np.stack([wave, other], 1))).cancels is cancels
    assert not read_recording(encoded(np.zeros((9, 2)))).cancels


def test_channels_are_averaged_and_loud_samples_clipped():
    stereo = np.stack([tone(), -tone()], axis=1)
    assert np.abs(read_audio(encoded(stereo)).astype(int)).max() <= 1
    loud = read_audio(encoded(tone(level=3.0), subtype="FLOAT"))
    assert (loud.min(), loud.max()) == (-32768, 32767)


def damaged(case):
    data = bytearray(flac(np.random.default_rng(0).integers(-9000, 9000, 50000).astype(np.int16)))
    match case:
        case "flipped":
            data[len(data) // 2] ^= 0xFF
        case "cut off":
            data = data[: len(data) // 2]
        case "endless":
            data[21] |= 0x0F  # the 36 bits of STREAMINFO that say how many samples there are
            data[22:26] = b"\xff" * 4
        case "undefined":
            data = bytearray(encoded(np.array([0.0, np.nan, 0.1]), subtype="FLOAT"))
        case "text":
            data = bytearray(b"not a recording" * 100)
        case "empty":
            data = bytearray()
    return bytes(data)


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("flipped", "damaged FLAC"),
        ("cut off", "damaged FLAC"),
        ("endless", "s long by its header, more than 28,800 s; cut it up"),
        ("undefined", "infinite or undefined"),
        ("text", "no audio that can be read"),
        ("empty", "0 bytes"),
    ],
)
def test_what_cannot_be_read_is_said(case, told):
    with pytest.raises(ValueError, match=told):
        read_audio(damaged(case))


def unknown_length(samples):
    """FLAC as it is written to a pipe."""
    data = bytearray(flac(samples))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    return bytes(data)


NOISE = np.random.default_rng(1).integers(-9000, 9000, 60_000).astype(np.int16)


@pytest.mark.parametrize(
    "data",
    [
        flac(NOISE),
        encoded(NOISE),
        encoded(NOISE / 32768, subtype="FLOAT"),
        encoded(np.stack([NOISE, -NOISE // 2], axis=1), kind="FLAC"),
        encoded(NOISE, 44100, "FLAC"),
        encoded(NOISE, kind="OGG", subtype="VORBIS"),
        encoded(NOISE, 16000, "MP3", "MPEG_LAYER_III"),
        unknown_length(NOISE),
    ],
)
def test_a_part_is_that_of_the_whole(data):
    whole = read_audio(data)
    for span in (slice(0, 700), slice(9000, 17000), slice(len(whole) - 300, len(whole))):
        seen = []
        part = read_part(data, lambda count, span=span, seen=seen: seen.append(count) or span)
        assert seen == [len(whole)] and np.array_equal(part, whole[span])


def test_a_part_is_read_without_the_rest():
    data = bytearray(flac(NOISE))
    data[len(data) * 3 // 4] ^= 0xFF
    assert np.array_equal(read_part(bytes(data), lambda _: slice(8000, 16000)), NOISE[8000:16000])
    with pytest.raises(ValueError, match="damaged"):
        read_part(bytes(data), lambda count: slice(count // 2, count))
    for part in (slice(0, 8000), slice(52_000, 60_000)):
        with pytest.raises(ValueError, match="cut off|damaged"):
            read_part(bytes(data[: len(data) // 2]), lambda _, part=part: part)
    with pytest.raises(ValueError, match="cut off"):
        read_part(encoded(NOISE)[:-1000], lambda _: slice(50_000, 60_000))


@pytest.mark.parametrize("data", [flac(NOISE), unknown_length(NOISE)])
def test_too_long_is_told_from_the_header_where_it_can(data):
    for use in (read_audio, lambda d, limit: read_part(d, lambda _: slice(0, 10), limit)):
        with pytest.raises(TooLong, match=r"more than 3\.7 s"):
            use(data, 3.7)
        assert len(use(data, 3.75))


def test_flac_from_a_pipe_does_not_know_its_length():
    data = unknown_length(np.arange(5000, dtype=np.int16))
    assert audio_samples(data) == 5000 and len(read_audio(data)) == 5000
    assert not is_stored_form(data)
