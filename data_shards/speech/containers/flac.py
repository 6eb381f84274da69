"""FLAC: the length in its header beside the place of its last frame.

libsndfile stops at the header's length. The last frame has its own number, so that a wrong length shows without
decoding. Its layout: RFC 9639, sections 8.2 and 9.1.
"""

from __future__ import annotations

import re
from itertools import pairwise

from data_shards.shards.tar import Data
from data_shards.speech.containers.stream import Stream

_TAIL = 1 << 18  # bytes that are searched for the last frame; an ordinary frame has 16 KiB
_SYNC = b"\xff"
_BEGIN = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")  # the magic and the header of STREAMINFO
_BLOCK_SIZES = {1: 192, **{n: 576 << n - 2 for n in range(2, 6)}, **{n: 256 << n - 8 for n in range(8, 16)}}
_INFO, _TOTAL = 8, slice(21, 26)  # STREAMINFO, and in it the 36 bits of the length with 4 of the sample's width


def _crc8_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value << 1) ^ (0x107 if value & 0x80 else 0)
        table.append(value)
    return table


_CRC8 = _crc8_table()


def _number(data: bytes) -> tuple[int, int]:
    """Return a number coded as in UTF-8, and its bytes. Raises ValueError or IndexError for others."""
    first = data[0]
    if first < 0x80:
        return first, 1
    count = 8 - (first ^ 0xFF).bit_length()
    value = first & (0x7F >> count)
    if not 2 <= count <= 7:
        raise ValueError("no coded number")
    for byte in data[1:count]:
        if byte & 0xC0 != 0x80:
            raise ValueError("no coded number")
        value = value << 6 | byte & 0x3F
    return value, count


def _frame_end(header: bytes, block: int) -> int | None:
    """Return the samples up to a frame's end; None if these bytes are no header of a frame. block: samples per frame.

    Raises ValueError or IndexError as well if they are none.
    """
    if header[1] & 0xFE != 0xF8 or header[3] & 1:
        return None
    number, count = _number(header[4:11])
    place, size_code, rate_code = 4 + count, header[2] >> 4, header[2] & 15
    extra = {6: 1, 7: 2}.get(size_code, 0)
    size = int.from_bytes(header[place : place + extra], "big") + 1 if extra else _BLOCK_SIZES[size_code]
    place += extra + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    crc = 0
    for byte in header[:place]:
        crc = _CRC8[crc ^ byte]
    if crc != header[place]:
        return None
    return number + size if header[1] & 1 else number * block + size


def _last_sample(tail: bytes, block: int) -> int | None:
    """Return the number of samples by the last frame in `tail`; None if there is none."""
    place = len(tail)
    while (place := tail.rfind(_SYNC, 0, place)) >= 0:
        try:
            end = _frame_end(tail[place : place + 17], block)
        except (ValueError, IndexError, KeyError):
            continue
        if end is not None:
            return end
    return None


def flac_streams(data: Data, start: int) -> list[Stream]:
    """Return the streams of FLAC files that were joined; the first begins at byte `start`."""
    begins = [found.start() for found in _BEGIN.finditer(data, start + 1)]
    if not begins:
        return [flac_stream(data, start)]
    parts = [data[: begins[0]], *(data[a:b] for a, b in pairwise([*begins, len(data)]))]
    return [flac_stream(part, start if i == 0 else 0) for i, part in enumerate(parts)]


def flac_stream(data: Data, start: int) -> Stream:
    """Return FLAC that begins at byte `start`; without its length if that is not the one of the last frame."""
    info = bytes(data[start : start + 42])
    total = int.from_bytes(info[_TOTAL], "big") & (1 << 36) - 1
    tail = bytes(data[max(start + 42, len(data) - _TAIL) :])
    if len(info) < 42 or not total or _last_sample(tail, int.from_bytes(info[10:12], "big")) == total:
        return Stream(data)
    unknown = bytearray(data)
    unknown[start + 21] &= 0xF0
    unknown[start + 22 : start + 26] = bytes(4)
    return Stream(bytes(unknown), promised=total)
