"""Ogg: its pages walked, and chained files cut into their links. libsndfile decodes the first link alone.

Layout of a page: RFC 3533, section 6.
"""

from __future__ import annotations

import struct

from data_shards.shards.tar import Data
from data_shards.speech.containers.stream import Stream, is_padding

_PAGE = struct.Struct("<4sBBqIIIB")
_BEGINS = 2  # flag of a logical stream's first page


def _pages(data: Data) -> list[tuple[int, int, int, int, int, int]]:
    """Return (begin, end, flags, granule, serial, number) of every page. Raises ValueError if the file is damaged."""
    pages: list[tuple[int, int, int, int, int, int]] = []
    place = 0
    while place < len(data):
        if bytes(data[place : place + 4]) != b"OggS":
            if pages and is_padding(bytes(data[place:])):
                break
            raise ValueError(f"damaged Ogg: no page at byte {place}")
        try:
            _, _, flags, granule, serial, number, _, count = _PAGE.unpack_from(data, place)
        except struct.error:
            raise ValueError(f"cut off: the last page, at byte {place}, is not whole") from None
        begin, place = place, place + _PAGE.size
        place += count + sum(data[place : place + count])
        if place > len(data):
            raise ValueError(f"cut off: the last page, at byte {begin}, is not whole")
        pages.append((begin, place, flags, granule, serial, number))
    return pages


def ogg_streams(data: Data) -> list[Stream]:
    """Return the links of an Ogg file, one after another.

    Raises ValueError if a page is missing or not whole, or if its place in time is before an earlier page's.
    """
    starts, last, begun = [0], dict[int, tuple[int, int]](), False
    pages = _pages(data)
    for begin, _, flags, granule, serial, number in pages:
        if flags & _BEGINS:
            if begun:  # a stream that begins behind another's data is the next link
                starts.append(begin)
                last, begun = {}, False
        else:
            begun = True
            before, latest = last.get(serial, (number - 1, 0))
            if number != before + 1:
                raise ValueError(f"damaged Ogg: page {number} at byte {begin} follows page {before}")
            if 0 <= granule < latest:
                raise ValueError(f"damaged Ogg: the page at byte {begin} ends before an earlier one, by its own word")
            granule = max(granule, latest)
        last[serial] = (number, max(granule, 0))
    if pages[-1][3] < 0:
        raise ValueError("cut off: the last page, by its own word, does not end its stream")
    if len(starts) == 1:
        return [Stream(data)]
    ends = [*starts[1:], pages[-1][1]]
    return [Stream(data[start:end]) for start, end in zip(starts, ends, strict=True)]
