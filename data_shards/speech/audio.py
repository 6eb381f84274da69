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
"""The longest recording for callers without a run's configuration: 0.9 GB of samples."""

_RATES = (1_000, 1_000_000)  # Hz: beyond them the header is damaged, and resampling would take all memory
_BLOCK = 1 << 20  # frames decoded at once
_EXACT = ("FLAC", "WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF")  # in lossy formats a seek is approximate


class TooLong(ValueError):
    """A recording of more seconds than allowed."""


class _Bytes(io.BytesIO):
    """A file whose `seek` returns -1 for a place before the beginning.

    libsndfile seeks there in damaged bytes, and an exception would be printed.
    """

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
    """Return the decoder. Raises ValueError if the bytes are no audio, TooLong if the header gives more seconds."""
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
    """Return libsndfile's message, or the number of an error that has none."""
    return error.error_string.rstrip(".") or f"libsndfile error {error.code}"


def _length_known(file: _Stream) -> bool:
    """Return False for FLAC that was written to a pipe: libsndfile gives it the largest integer."""
    return file.frames < 2**62


def _read(file: _Stream, count: int, dtype: str) -> np.ndarray:
    """Read at most `count` frames at the decoder's position, [frames, channels]. Raises ValueError for damaged ones."""
    try:
        return file.read(count, dtype=dtype, always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"damaged {file.format} ({_reason(error)})") from None


def _blocks(file: _Stream, dtype: str, max_seconds: float) -> Iterator[np.ndarray]:
    """Yield pieces [frames, channels] to the end.

    Raises ValueError if the bytes are damaged or cut off, TooLong after `max_seconds`.
    """
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
    """Yield float32 mono pieces at 16 kHz: the mean of the channels, resampled in one stream."""
    blocks = _blocks(file, "float32", max_seconds)
    if file.samplerate == SAMPLE_RATE:
        yield from (block.mean(axis=1) for block in blocks)
        return
    stream = soxr.ResampleStream(file.samplerate, SAMPLE_RATE, 1, dtype="float32")
    for block in blocks:
        yield stream.resample_chunk(block.mean(axis=1))
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _int16(samples: np.ndarray) -> np.ndarray:
    """Return floats in [-1, 1) as int16; louder ones are clipped.

    Raises ValueError for infinities and NaN, which float files can hold.
    """
    if not np.isfinite(samples).all():
        raise ValueError("holds infinite or undefined samples")
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


def is_stored_form(data: Data) -> bool:
    """Return True for FLAC of 16 bits, mono, 16 kHz, of known length. It is stored unchanged.

    Raises ValueError for a bad header, as `read_audio` does.
    """
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
    """Return int16 [S], mono at 16 kHz, from a file of any rate, width and number of channels.

    Raises ValueError, without a file's name, if the bytes are no audio, damaged or cut off. Raises TooLong if they last
    more than `max_seconds`.
    """
    with _open(data, max_seconds) as file:
        return _whole(file, max_seconds)


def read_part(data: Data, part: Callable[[int], slice], max_seconds: float = MAX_SECONDS) -> np.ndarray:
    """Return `read_audio(data)[part(S)]`: `part` gives the slice for a recording of S samples.

    Only this slice is decoded if the file is at 16 kHz and can be read from any place. Then the rest may be damaged.
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
    """Return the number of samples at 16 kHz, from the header; without one there, by decoding.

    Raises ValueError as `read_audio` does.
    """
    with _open(data, MAX_SECONDS) as file:
        if _length_known(file):
            return round(file.frames * SAMPLE_RATE / file.samplerate)
    return len(read_audio(data))


def flac(samples: np.ndarray) -> bytes:
    """Return int16 [S] at 16 kHz as FLAC. The same samples give the same bytes with the same libsndfile."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def audio_length(data: Data) -> int:
    """Return the number of frames, from the header."""
    return frames(audio_samples(data))
