"""Recordings of many formats <-> mono int16 at 16 kHz, the form in which speech is stored.

libsndfile decodes. `containers/` sees to it that it decodes to the end.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr

from configs.signals import SAMPLE_RATE, frames
from data_shards.shards.tar import Data
from data_shards.speech.containers.recording import streams
from data_shards.speech.containers.stream import Stream
from data_shards.speech.decoder import Decoder

AUDIO_EXTENSIONS = ("flac", "wav", "ogg", "opus", "mp3", "oga", "aif", "aiff", "au", "sph", "w64", "caf")
"""Members that are read as recordings."""

MAX_SECONDS = 8 * 3600.0
"""The longest recording for callers without a run's configuration: 0.9 GB of samples."""

_CANCELLED = 1e-4
"""Share of the channels' power: if their mean has less, it is no more than what rounding and coding leave."""

_SILENT = 1e-3
"""Deviation of the samples from their mean, as a share of full scale, up to which a recording is silent: -60 dB."""


@dataclass(frozen=True)
class Recording:
    """A decoded recording, and what the form in which it is stored cannot keep of it."""

    samples: np.ndarray
    """int16 [S], mono at 16 kHz."""
    clipped: int
    """Samples of a file of floats that are louder than full scale."""
    cancels: bool
    """True if the channels are not silent and their mean is."""


class _Mono:
    """The mean of the channels, and its power beside theirs."""

    def __init__(self, decoder: Decoder) -> None:
        self._floats = decoder.codec in ("FLOAT", "DOUBLE")
        self.clipped = 0
        self._power = self._mean_power = 0.0

    def of(self, block: np.ndarray) -> np.ndarray:
        """Return the mean of the channels, float32 [S], of float32 [S, channels]."""
        mean = block.mean(axis=1)
        if self._floats:
            self.clipped += int((np.abs(block) > 1).sum())
        if block.shape[1] > 1:
            self._power += float(np.vdot(block, block)) / block.shape[1]
            self._mean_power += float(np.vdot(mean, mean))
        return mean

    @property
    def cancels(self) -> bool:
        """True if the channels had power and their mean has almost none."""
        return self._power > 0 and self._mean_power < _CANCELLED * self._power


def _resampled(decoder: Decoder, mono: _Mono) -> Iterator[np.ndarray]:
    """Yield float32 mono pieces at 16 kHz: the mean of the channels, resampled in one stream."""
    blocks = decoder.blocks("float32")
    if decoder.rate == SAMPLE_RATE:
        yield from (mono.of(block) for block in blocks)
        return
    stream = soxr.ResampleStream(decoder.rate, SAMPLE_RATE, 1, dtype="float32")
    for block in blocks:
        yield stream.resample_chunk(mono.of(block))
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
    first, *others = streams(data)
    with Decoder(first, MAX_SECONDS) as decoder:
        form = (decoder.format, decoder.codec, decoder.channels, decoder.rate)
        return form == ("FLAC", "PCM_16", 1, SAMPLE_RATE) and decoder.length is not None and not others


def _whole(decoder: Decoder) -> Recording:
    mono = _Mono(decoder)
    if (decoder.rate, decoder.channels, decoder.codec) == (SAMPLE_RATE, 1, "PCM_16"):
        pieces = [block[:, 0] for block in decoder.blocks("int16")]
    else:
        pieces = [_int16(piece) for piece in _resampled(decoder, mono)]
    samples = np.concatenate(pieces) if pieces else np.zeros(0, np.int16)
    return Recording(samples, mono.clipped, mono.cancels)


def read_recording(data: Data, max_seconds: float = MAX_SECONDS) -> Recording:
    """Decode a file of any rate, width and number of channels, to the end of its last stream.

    Raises ValueError, without a file's name, if the bytes are no audio, damaged or cut off. Raises TooLong if they last
    more than `max_seconds`.
    """
    return _joined(streams(data), max_seconds)


def _joined(found: list[Stream], max_seconds: float) -> Recording:
    """Decode streams one after another. Raises the same as `read_recording`."""
    parts: list[Recording] = []
    for stream in found:
        done = sum(len(part.samples) for part in parts) / SAMPLE_RATE
        with Decoder(stream, max_seconds - done) as decoder:
            parts.append(_whole(decoder))
    if len(parts) == 1:
        return parts[0]
    samples = np.concatenate([part.samples for part in parts])
    return Recording(samples, sum(part.clipped for part in parts), any(part.cancels for part in parts))


def read_audio(data: Data, max_seconds: float = MAX_SECONDS) -> np.ndarray:
    """Return int16 [S], mono at 16 kHz. Raises the same as `read_recording`."""
    return read_recording(data, max_seconds).samples


def read_part(data: Data, part: Callable[[int], slice], max_seconds: float = MAX_SECONDS) -> np.ndarray:
    """Return `read_audio(data)[part(S)]`: `part` gives the slice for a recording of S samples.

    Only this slice is decoded if the file is at 16 kHz and can be read from any place. Then the rest may be damaged.
    """
    found = streams(data)
    with Decoder(found[0], max_seconds) as decoder:
        if len(found) > 1 or decoder.rate != SAMPLE_RATE or decoder.length is None or not decoder.seekable:
            samples = _joined(found, max_seconds).samples
            return samples[part(len(samples))]
        span = part(decoder.length)
        decoder.seek(span.start)
        whole = (decoder.channels, decoder.codec) == (1, "PCM_16")
        block = decoder.read(span.stop - span.start, "int16" if whole else "float32")
        if len(block) < span.stop - span.start:
            raise ValueError(f"cut off: {span.start + len(block)} of {decoder.length} samples")
    return block[:, 0] if whole else _int16(block.mean(axis=1))


def silent(data: Data) -> bool:
    """Return True if a recording's power, without its mean, is 60 dB or more below full scale.

    Raises ValueError as `read_audio` does.
    """
    samples = read_audio(data)
    blocks = np.array_split(samples, max(1, len(samples) // SAMPLE_RATE))  # casting all at once would take much memory
    power = sum(float(np.square(block - samples.mean()).sum()) for block in blocks)
    return power <= (_SILENT * 32768) ** 2 * len(samples)


def audio_samples(data: Data) -> int:
    """Return the number of samples that `read_audio` gives, from the header; without one there, by decoding.

    Raises ValueError as `read_audio` does.
    """
    count = 0
    for stream in streams(data):
        with Decoder(stream, MAX_SECONDS) as decoder:
            if decoder.length is None:
                count += len(_whole(decoder).samples)
            else:
                count += (2 * decoder.length * SAMPLE_RATE + decoder.rate) // (2 * decoder.rate)  # as soxr rounds
    return count


def flac(samples: np.ndarray) -> bytes:
    """Return int16 [S] at 16 kHz as FLAC. The same samples give the same bytes with the same libsndfile."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def audio_length(data: Data) -> int:
    """Return the number of frames, as `audio_samples` counts."""
    return frames(audio_samples(data))


def decoded_length(data: Data) -> int:
    """Return the number of frames of a decoded recording. Raises ValueError for a bad one, or one of silent sum."""
    recording = read_recording(data)
    if recording.cancels:
        raise ValueError("its channels cancel each other to silence; keep one of them")
    return frames(len(recording.samples))
