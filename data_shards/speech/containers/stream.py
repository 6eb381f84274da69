"""One stream of a recording, in bytes that libsndfile decodes to their end."""

from __future__ import annotations

from typing import NamedTuple

from data_shards.shards.tar import Data


class Stream(NamedTuple):
    """Encoded audio whose header, as far as it gives a length, gives the true one."""

    data: Data
    sound: int | None = None
    """Bytes of audio behind the header, if the container gives them."""
    promised: int | None = None
    """Samples per channel that a header promised which is not believed; a stream of fewer is cut off."""
    samples: int | None = None
    """Samples per channel at most, counted from frame to frame."""


REMEDY = "write its header anew (ffmpeg -i FILE -c copy NEW)"
"""Remedy for a wrong length in a header."""


def cut_off(there: int, promised: int, unit: str) -> ValueError:
    """Return the error for a stream that is shorter than its header promises."""
    return ValueError(f"cut off, or a wrong length in its header: {there} of {promised} {unit}")


def is_padding(rest: bytes) -> bool:
    """Return True for bytes behind the audio that hold none: zeros, or a tag of the kinds ID3v1, ID3v2 and APE."""
    return rest.count(0) == len(rest) or rest.startswith((b"TAG", b"ID3", b"APETAGEX"))


def tag_size(data: bytes) -> int:
    """Return the size of the ID3v2 tag at the beginning of bytes; 0 without one."""
    if data[:3] != b"ID3" or len(data) < 10 or any(byte & 0x80 for byte in data[6:10]):
        return 0
    size = sum(byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
    return 10 + size + (10 if data[5] & 0x10 else 0)
