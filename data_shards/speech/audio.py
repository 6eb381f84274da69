"""Recordings: any format that libsndfile reads <-> mono int16 at 16 kHz, the form in which speech is stored."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np
import soundfile
import soxr

from configs.signals import SAMPLE_RATE, frames
from data_shards.shards.tar import Data

AUDIO_EXTENSIONS = ("flac", "wav", "ogg", "opus", "mp3", "oga", "aif", "aiff", "au", "sph", "w64", "caf")
"""Members that are read as recordings."""

MAX_SECONDS = 8 * 3600.0
"""Longer recordings are refused where no configuration is at hand: 0.9 GB of samples."""

_RATES = (1_000, 1_000_000)  # Hz: beyond them the header is damaged, and resampling would take all memory
_BLOCK = 1 << 20  # frames decoded at once
_EXACT = ("FLAC", "WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF")  # in lossy formats a seek is approximate


class TooLong(ValueError):
    """A recording of more seconds than allowed."""


class _Bytes(io.BytesIO):
    """Says -1 where damaged bytes make libsndfile seek before the beginning: an exception would be printed."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return -1


class _Stream(soundfile.SoundFile):
    """A decoder that only goes forward: libsndfile cannot seek in FLAC that was written to a pipe."""

    def seekable(self) -> bool:
        return False


def _open(data: Data, max_seconds: float) -> _Stream:
    """The decoder; ValueError where the bytes are no audio, TooLong where their header promises more seconds."""
    if not data:
        raise ValueError("0 bytes")
    try:
        file = _Stream(_Bytes(data))
    except soundfile.LibsndfileError as error:
        raise ValueError(f"no audio that can be read ({_reason(error)})") from None
    if not _RATES[0] <= file.samplerate <= _RATES[1]:
        raise ValueError(f"a rate of {file.samplerate} Hz")
    if _length_known(file) and file.frames > max_seconds * file.samplerate:
        seconds = file.frames / file.samplerate
        raise TooLong(f"{seconds:,.1f} s long by its header, more than {max_seconds:,.10g} s; cut it up")
    return file


def _reason(error: soundfile.LibsndfileError) -> str:
    """libsndfile's words, which it does not have for every error."""
    return error.error_string.rstrip(".") or f"libsndfile error {error.code}"


def _length_known(file: _Stream) -> bool:
    """False for FLAC that was written to a pipe: libsndfile gives the largest integer."""
    return file.frames < 2**62


def _read(file: _Stream, count: int, dtype: str) -> np.ndarray:
    """[frames, channels] from where the decoder is, at most `count` frames; ValueError where they are damaged."""
    try:
        return file.read(count, dtype=dtype, always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"damaged {file.format} ({_reason(error)})") from None


def _blocks(file: _Stream, dtype: str, max_seconds: float) -> Iterator[np.ndarray]:
    """[frames, channels] pieces to the end; ValueError where the bytes are damaged, cut off, or too many."""
    read = 0
    while True:
        block = _read(file, _BLOCK, dtype)
        read += len(block)
        if read > max_seconds * file.samplerate:
            raise TooLong(f"more than {max_seconds:,.10g} s long; cut it up")
        if not len(block):
            break
        yield block
    # MP3 is left out: without a Xing header its length is an estimate.
    if _length_known(file) and read < file.frames and file.format != "MP3":
        raise ValueError(f"cut off: {read} of {file.frames} samples")


def _resampled(file: _Stream, max_seconds: float) -> Iterator[np.ndarray]:
    """float32 mono pieces at 16 kHz: the mean of the channels, resampled in one stream."""
    blocks = _blocks(file, "float32", max_seconds)
    if file.samplerate == SAMPLE_RATE:
        yield from (block.mean(axis=1) for block in blocks)
        return
    stream = soxr.ResampleStream(file.samplerate, SAMPLE_RATE, 1, dtype="float32")
    for block in blocks:
        yield stream.resample_chunk(block.mean(axis=1))
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _int16(samples: np.ndarray) -> np.ndarray:
    """float in [-1, 1) -> int16, louder clipped; ValueError at infinities and NaN, which float files can hold."""
    if not np.isfinite(samples).all():
        raise ValueError("holds infinite or undefined samples")
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


def is_stored_form(data: Data) -> bool:
    """Whether the bytes are FLAC of 16 bits, mono, 16 kHz, of known length: then they are stored as they are.

    Raises ValueError as `read_audio` does for a bad header."""
    with _open(data, MAX_SECONDS) as file:
        form = (file.format, file.subtype, file.channels, file.samplerate)
        return form == ("FLAC", "PCM_16", 1, SAMPLE_RATE) and _length_known(file)


def _whole(file: _Stream, max_seconds: float) -> np.ndarray:
    if (file.samplerate, file.channels, file.subtype) == (SAMPLE_RATE, 1, "PCM_16"):
        pieces = [block[:, 0] for block in _blocks(file, "int16", max_seconds)]
    else:
        pieces = [_int16(piece) for piece in _resampled(file, max_seconds)]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int16)


def read_audio(data: Data, max_seconds: float = MAX_SECONDS) -> np.ndarray:
    """int16 [S], mono at 16 kHz, of a file of any rate, width and number of channels.

    Raises ValueError, without a file's name, where the bytes are no audio, damaged or cut off, and TooLong where they
    are of more than `max_seconds`.
    """
    with _open(data, max_seconds) as file:
        return _whole(file, max_seconds)


def read_part(data: Data, part: Callable[[int], slice], max_seconds: float = MAX_SECONDS) -> np.ndarray:
    """The `part` of a recording's samples, given how many they are: as `read_audio(data)[part(S)]`.

    No more is decoded where the file is at 16 kHz and can be read from any place; then the rest may be damaged.
    """
    with _open(data, max_seconds) as file:
        if not (file.samplerate == SAMPLE_RATE and file.format in _EXACT and _length_known(file)):
            samples = _whole(file, max_seconds)
            return samples[part(len(samples))]
        span = part(file.frames)
        try:
            file.seek(span.start)
        except soundfile.LibsndfileError as error:
            raise ValueError(f"damaged {file.format} ({_reason(error)})") from None
        whole = (file.channels, file.subtype) == (1, "PCM_16")
        block = _read(file, span.stop - span.start, "int16" if whole else "float32")
        if len(block) < span.stop - span.start:
            raise ValueError(f"cut off: {span.start + len(block)} of {file.frames} samples")
    return block[:, 0] if whole else _int16(block.mean(axis=1))


def audio_samples(data: Data) -> int:
    """Samples at 16 kHz, from the header (decoded where it does not say). Raises ValueError as `read_audio`."""
    with _open(data, MAX_SECONDS) as file:
        if _length_known(file):
            return round(file.frames * SAMPLE_RATE / file.samplerate)
    return len(read_audio(data))


def flac(samples: np.ndarray) -> bytes:
    """int16 [S] at 16 kHz as FLAC; the same samples give the same bytes with the same libsndfile."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def audio_length(data: Data) -> int:
    """Frames, from the header."""
    return frames(audio_samples(data))
