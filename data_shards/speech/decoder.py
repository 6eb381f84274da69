"""libsndfile's decoder for one stream of a recording: what it may read, and pieces to the end of the stream."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import soundfile

from configs.signals import SAMPLE_RATE
from data_shards.speech.containers.stream import Stream, cut_off

_WIDTHS = {
    "PCM_S8": 1,
    "PCM_U8": 1,
    "ULAW": 1,
    "ALAW": 1,
    "PCM_16": 2,
    "PCM_24": 3,
    "PCM_32": 4,
    "FLOAT": 4,
    "DOUBLE": 8,
}
"""Bytes of a sample in the codecs in which all samples have one width."""
_CODECS = {*_WIDTHS, "IMA_ADPCM", "MS_ADPCM", "GSM610", "VORBIS", "OPUS"}
_CODECS |= {"MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III"}
_FORMATS = ("FLAC", "WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "OGG", "MP3")
_RATES = (1_000, 1_000_000)  # Hz: beyond them the header is damaged, and resampling would take all memory
_BLOCK = 1 << 20  # samples decoded at once
_CHANNELS = 8  # of more, fewer samples are decoded at once: a header may promise 1024
_GAPS = 2 * 4095  # samples at most that a header of MP3 declares to be filling, at its beginning and end


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


class _SoundFile(soundfile.SoundFile):
    """A decoder that only goes forward: libsndfile cannot seek in FLAC that was written to a pipe."""

    def seekable(self) -> bool:
        return False


def _reason(error: soundfile.LibsndfileError) -> str:
    """Return libsndfile's message, or the number of an error that has none."""
    return error.error_string.rstrip(".") or f"libsndfile error {error.code}"


class Decoder:
    """An open stream. A context manager."""

    def __init__(self, stream: Stream, max_seconds: float) -> None:
        """Open a stream. Raises ValueError if it is no audio, TooLong if its header gives more seconds."""
        if not stream.data:
            raise ValueError("0 bytes")
        try:
            self._file = _SoundFile(_Bytes(stream.data))
        except soundfile.LibsndfileError as error:
            raise ValueError(f"no audio that can be read ({_reason(error)})") from None
        self._stream, self._max_seconds = stream, max_seconds
        self.rate: int = self._file.samplerate
        self.channels: int = self._file.channels
        self.codec: str = self._file.subtype
        self.format: str = self._file.format
        self.length: int | None = self._file.frames if self._file.frames < 2**62 else None
        """Samples per channel; None for FLAC of no length that holds: libsndfile gives it the largest integer."""
        if stream.samples is not None:  # of MPEG's layers I and II, libsndfile estimates the length
            self.length = min(self._file.frames, stream.samples)
        self._check()

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _check(self) -> None:
        if self.format not in _FORMATS or self.codec not in _CODECS:
            raise ValueError(f"{self.format} of {self.codec}, which is not read; convert it to FLAC or WAV")
        if not _RATES[0] <= self.rate <= _RATES[1]:
            raise ValueError(f"a rate of {self.rate} Hz")
        promised = self._stream.promised if self.length is None else self.length
        if promised is not None and promised > self._max_seconds * self.rate:
            seconds = promised / self.rate
            raise TooLong(f"{seconds:,.1f} s long by its header, more than {self._max_seconds:,.10g} s; cut it up")
        there = self._stream.samples
        if self._stream.sound is not None and self.codec in _WIDTHS:
            there = self._stream.sound // (_WIDTHS[self.codec] * self.channels)
        gaps = _GAPS if self.codec == "MPEG_LAYER_III" else 0
        if there is not None and self.length is not None and not there - gaps <= self.length <= there:
            raise ValueError(f"a wrong length in its header: {self.length} samples, and {there} are there")

    @property
    def seekable(self) -> bool:
        """True if any part can be decoded alone. In lossy codecs a seek is approximate."""
        return self.codec in _WIDTHS and self.length is not None

    def seek(self, place: int) -> None:
        """Go to a sample. Raises ValueError if the bytes are damaged there."""
        try:
            self._file.seek(place)
        except soundfile.LibsndfileError as error:
            raise ValueError(f"damaged {self.format} ({_reason(error)})") from None

    def read(self, count: int, dtype: str) -> np.ndarray:
        """Decode at most `count` samples, [count, channels]. Raises ValueError for damaged bytes."""
        try:
            return self._file.read(count, dtype=dtype, always_2d=True)
        except soundfile.LibsndfileError as error:
            raise ValueError(f"damaged {self.format} ({_reason(error)})") from None

    def blocks(self, dtype: str) -> Iterator[np.ndarray]:
        """Yield pieces [samples, channels] to the end.

        Raises ValueError if the bytes are damaged or cut off, TooLong after the most seconds.
        """
        read, size = 0, _BLOCK // max(1, self.channels // _CHANNELS, SAMPLE_RATE // self.rate)
        while len(block := self.read(size if self.length is None else min(size, self.length - read), dtype)):
            read += len(block)
            if read > self._max_seconds * self.rate:
                raise TooLong(f"more than {self._max_seconds:,.10g} s long; cut it up")
            yield block
        promised = self._stream.promised if self.length is None else self.length
        if promised is not None and read < promised:
            raise cut_off(read, promised, "samples")
