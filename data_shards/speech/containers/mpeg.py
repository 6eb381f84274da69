"""MP3, and layers I and II of MPEG audio: the frames walked, and the number of them put into a header.

libsndfile takes the length from a header in the first frame (Xing, Info), or else estimates it from the first frame's
bit rate, and stops there. Layout of frames: ISO 11172-3, 2.4.1.3; of the header: Xing's, as LAME and mpg123 use it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from data_shards.shards.tar import Data
from data_shards.speech.containers.stream import Stream, cut_off, tag_size

_V1, _V2 = 3, 2  # MPEG versions by their bits; 0 is 2.5
_LAYER_1, _LAYER_2, _LAYER_3 = 3, 2, 1  # layers by their bits
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_KBITS = {
    (True, _LAYER_1): range(0, 449, 32),
    (True, _LAYER_2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, _LAYER_3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, _LAYER_1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, _LAYER_2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, _LAYER_3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MONO = 3
_SYNC = re.compile(rb"\xff(?=[\xe0-\xff])")


class _Kind(NamedTuple):
    """Facts that every frame of a file shares."""

    version: int
    layer: int
    rate: int
    mono: bool

    @property
    def samples(self) -> int:
        """Samples per channel of a frame."""
        return 384 if self.layer == _LAYER_1 else 1152 if self.version == _V1 or self.layer == _LAYER_2 else 576

    @property
    def named(self) -> str:
        """The kind in words."""
        return f"layer {4 - self.layer}, {self.rate} Hz, {'mono' if self.mono else 'stereo'}"


class _Frame(NamedTuple):
    """Facts of one frame's header."""

    size: int
    kind: _Kind


@lru_cache(maxsize=4096)
def _frame(header: bytes) -> _Frame | None:
    """Return the facts of a header of 4 bytes; None if it is none, or gives no size (free format)."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    kbits, rate, padded = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 0 or kbits in (0, 15) or rate == 3:
        return None
    kind = _Kind(version, layer, _RATES[version][rate], header[3] >> 6 == _MONO)
    slots = kind.samples // 8 * 1000 * _KBITS[version == _V1, layer][kbits]  # of a byte, in layer I of four
    size = (slots // 4 // kind.rate + padded) * 4 if layer == _LAYER_1 else slots // kind.rate + padded
    return _Frame(size, kind)


class _Walk:
    """Frames of a file: places of those that hold audio, and of those that hold notes about it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.audio: list[tuple[int, int]] = []
        """Place and size of each frame with audio."""
        self.notes: list[int] = []
        """Places of the frames with a header of the file."""
        self.kind: _Kind | None = None
        self.partial = False
        """True if the last frame is not whole."""
        self._known = {place for name in (b"Xing", b"Info", b"VBRI") for place in _all(data, name)}
        self._walk()

    def _walk(self) -> None:
        place = 0
        while place < len(self.data):
            frame = _frame(self.data[place : place + 4])
            if frame is None:
                place = self._behind_tag(place)
                continue
            if place + frame.size > len(self.data):
                self.partial = True
                break
            if frame.kind != self.kind:
                self._set_kind(frame.kind, place)
            if self._known and self._is_note(place, frame):
                self.notes.append(place)
            else:
                self.audio.append((place, frame.size))
            place += frame.size

    def _set_kind(self, kind: _Kind, place: int) -> None:
        if self.kind is not None:
            raise ValueError(
                f"changes from {self.kind.named} to {kind.named} at byte {place}; cut it into files of one kind each"
            )
        self.kind = kind

    def _behind_tag(self, place: int) -> int:
        """Return the end of a tag, or of other bytes before and behind all frames. Raises ValueError for damage."""
        rest = self.data[place : place + 32]
        if size := tag_size(rest):
            return place + size
        if rest.startswith(b"TAG"):
            return place + 128
        if rest.startswith(b"APETAGEX"):  # header and footer look alike; bit 29 of the flags tells them apart
            behind = int.from_bytes(rest[12:16], "little") if rest[23:24] and rest[23] & 0x20 else 0
            return place + 32 + behind
        following = self._next_frame(place)
        if self.audio and following < len(self.data):
            raise ValueError(f"damaged MP3: {following - place} bytes from byte {place} on are no frame")
        return following

    def _next_frame(self, place: int) -> int:
        """Return the place of the next two frames of one kind; the end of the file if there are none."""
        for sync in _SYNC.finditer(self.data, place):
            frame = _frame(self.data[sync.start() : sync.start() + 4])
            other = _frame(self.data[sync.start() + frame.size : sync.start() + frame.size + 4]) if frame else None
            if frame and other and frame.kind == other.kind:
                return sync.start()
        return len(self.data)

    def _is_note(self, place: int, frame: _Frame) -> bool:
        """Return True for a frame with Xing's, Info's or VBRI's header, which decodes to silence."""
        side = place + _side(frame.kind)
        return place + 36 in self._known or side in self._known or side + 2 in self._known


def _all(data: bytes, name: bytes) -> list[int]:
    places, place = [], -1
    while (place := data.find(name, place + 1)) >= 0:
        places.append(place)
    return places


def _side(kind: _Kind) -> int:
    """Return the place in a frame of layer III behind header and side information."""
    return 4 + ((17 if kind.mono else 32) if kind.version == _V1 else (9 if kind.mono else 17))


def _told(data: bytes, place: int, kind: _Kind) -> int | None:
    """Return the number of frames in the header of the frame at `place`; None if it gives none."""
    start = place + _side(kind)
    if data[start : start + 4] not in (b"Xing", b"Info") or not data[start + 7] & 1:
        return None
    return int.from_bytes(data[start + 8 : start + 12], "big")


def _xing(first: bytes, count: int) -> bytes:
    """Return a frame with a header that gives `count` frames. first: the header of a frame with audio."""
    largest = bytes([first[0], first[1] | 1, first[2] & 0x0C | 0xE0, first[3]])  # no CRC; room for the header
    frame = _frame(largest)
    assert frame is not None
    start = largest + bytes(_side(frame.kind) - 4) + b"Xing" + (1).to_bytes(4, "big") + count.to_bytes(4, "big")
    return start + bytes(frame.size - len(start))


def mpeg_stream(data: Data) -> Stream:
    """Return MPEG audio unchanged if its header gives the number of its frames, else with such a header.

    Raises ValueError if the file is cut off, damaged between frames, or changes its rate or channels.
    """
    data = bytes(data)
    walk = _Walk(data)
    if walk.kind is None or not walk.audio:
        raise ValueError("no audio that can be read (no frames of MPEG audio)")
    count, samples = len(walk.audio), len(walk.audio) * walk.kind.samples
    told = _told(data, walk.notes[0], walk.kind) if len(walk.notes) == 1 else None
    if told is not None and walk.notes[0] < walk.audio[0][0]:
        if told == count:
            return Stream(data[walk.notes[0] :], samples=samples)  # libsndfile wants the first frame at the beginning
        if told > count + (not walk.partial):  # some programs count the header's frame as well
            raise cut_off(count, told, "frames")
    audio = b"".join([data[place : place + size] for place, size in walk.audio])
    if walk.kind.layer != _LAYER_3:
        # No such header is known of them. libsndfile divides the file's size by that of the first frame; more frames
        # behind the last make this enough.
        first = audio[: walk.audio[0][1]]
        return Stream(audio + first * max(0, count + 1 - len(audio) // len(first)), samples=samples)
    return Stream(_xing(audio[:4], count) + audio, samples=samples)
