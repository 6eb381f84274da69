"""Recordings of every container for the tests of this folder, and headers that tell something else."""

import io
import struct

import numpy as np
import soundfile

SECOND = 16000
NOISE = (np.sin(np.arange(5 * SECOND) / 20) * 0.3 + np.random.default_rng(0).normal(0, 0.02, 5 * SECOND)).astype("f4")
"""5 s at 16 kHz."""


def encoded(samples=NOISE, rate=SECOND, kind="WAV", subtype="PCM_16", endian="FILE"):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype, endian=endian)
    return buffer.getvalue()


def put(data, place, form, value):
    """`data` with a number in the place of another."""
    return data[:place] + struct.pack(form, value) + data[place + struct.calcsize(form) :]


def flac_total(data, total):
    """FLAC whose header says `total` samples."""
    value = int.from_bytes(data[21:26], "big") >> 36 << 36 | total
    return data[:21] + value.to_bytes(5, "big") + data[26:]


def mp3(samples=NOISE, rate=SECOND):
    return encoded(samples, rate, "MP3", "MPEG_LAYER_III")


def without_xing(data):
    """MP3 without its first frame, which holds the header (here 288 bytes at 16 kHz, and 64 kbit/s)."""
    return data[data.index(data[:2], 4) :]


def told(data, frames):
    """MP3 whose header says so many frames."""
    return put(data, data.index(b"Xing") + 8, ">I", frames)


def _crc(page):
    """Ogg's checksum."""
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1) ^ (0x104C11DB7 if value & 0x80000000 else 0)
    return value


def pages(data):
    """(begin, end) of the pages of an Ogg file."""
    starts = [place for place in range(len(data)) if data[place : place + 5] == b"OggS\0"]
    return list(zip(starts, [*starts[1:], len(data)], strict=True))


def last_granule(data, granule):
    """Ogg whose last page says that so many samples are over at its end."""
    begin, end = pages(data)[-1]
    page = put(put(data[begin:end], 6, "<q", granule), 22, "<I", 0)
    return data[:begin] + put(page, 22, "<I", _crc(page))
