"""Containers whose header gives the bytes of audio: WAV, RF64, W64, AIFF, CAF, AU, NIST SPHERE.

libsndfile believes a length that is too small, and says nothing of one that is too large. Here the length is compared
with the bytes that are there, and with the chunks that follow.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from data_shards.shards.tar import Data
from data_shards.speech.containers.stream import REMEDY, Stream, cut_off, is_padding

_ENDLESS = 0x7FFF0000  # lengths of 32 bits from here on are those of programs that wrote to a pipe


@dataclass(frozen=True)
class _Form:
    """Layout of a container's chunks."""

    first: int
    """Byte of the first chunk."""
    name: bytes
    """Beginning of the name of the chunk with the audio."""
    size: str
    """Type of a chunk's size, for `struct`."""
    name_bytes: int = 4
    counted: int = 0
    """Bytes of a chunk's header that its size counts as well."""
    align: int = 2
    skip: int = 0
    """Bytes in the chunk before the audio."""

    @property
    def header(self) -> int:
        """Bytes of a chunk's header."""
        return self.name_bytes + struct.calcsize(self.size)

    def chunk(self, data: Data, place: int) -> tuple[bytes, int]:
        """Return name and content's bytes of the chunk at `place`, which is whole."""
        (size,) = struct.unpack_from(self.size, data, place + self.name_bytes)
        return bytes(data[place : place + 4]), size - self.counted


_FORMS = {
    b"RIFF": _Form(12, b"data", "<I"),
    b"RIFX": _Form(12, b"data", ">I"),
    b"RF64": _Form(12, b"data", "<I"),
    b"FORM": _Form(12, b"SSND", ">I", skip=8),
    b"riff": _Form(40, b"data", "<Q", name_bytes=16, counted=24, align=8),
    b"caff": _Form(8, b"data", ">q", align=1, skip=4),
}


@dataclass(frozen=True)
class _Sound:
    """Place of the audio in a file, and its length in bytes by the header."""

    start: int
    said: int | None
    """None if the header leaves the length open."""
    field: int | None = None
    """Byte of a length of 32 bits that is mended if it is 0."""


def _chunked(data: Data, form: _Form) -> _Sound | None:
    """Return the audio of a chunked file; None if it has none."""
    name, size, place = b"", 0, form.first
    while place + form.header <= len(data):
        name, size = form.chunk(data, place)
        if name == form.name or size < 0:
            break
        place += form.header + size + -size % form.align
    if name != form.name:
        return None
    start = place + form.header + form.skip
    if bytes(data[:4]) == b"RF64" and size == 0xFFFFFFFF:
        (size,) = struct.unpack_from("<Q", data, 28)  # in the first chunk, `ds64`, behind the size of the file
        return _Sound(start, size if size < 2**63 else None)
    if size < 0 or (form.size[1] == "I" and size >= _ENDLESS):
        return _Sound(start, None)
    return _Sound(start, max(size - form.skip, 0), place + 4 if form.first == 12 and not form.skip else None)


def _au(data: Data) -> _Sound:
    order = "<" if bytes(data[:4]) == b"dns." else ">"
    start, size = struct.unpack_from(f"{order}II", data, 4)
    return _Sound(start, None if size == 0xFFFFFFFF else size)


def _sphere(data: Data) -> _Sound:
    """Return the audio of a NIST SPHERE file, whose header is lines `name -i value`."""
    start = max(16, int(bytes(data[8:16])))
    fields = [line.split() for line in bytes(data[16:start]).decode("latin-1").splitlines()]
    known = {field[0]: int(field[2]) for field in fields if len(field) == 3 and field[1] == "-i"}
    if "sample_count" not in known:
        return _Sound(start, None)
    return _Sound(start, known["sample_count"] * known.get("channel_count", 1) * known.get("sample_n_bytes", 2))


def _sound(data: Data, magic: bytes) -> _Sound | None:
    try:
        if magic in (b".snd", b"dns."):
            return _au(data)
        return _sphere(data) if magic == b"NIST" else _chunked(data, _FORMS[magic])
    except (struct.error, ValueError):
        return None  # libsndfile says what is wrong


def _holds_chunks(data: Data, place: int, form: _Form | None) -> bool:
    """Return True if chunks, or nothing that could be audio, fill the bytes from `place` on."""
    if is_padding(bytes(data[place:])):
        return True
    while form and place + form.header <= len(data):
        name, size = form.chunk(data, place)
        if size < 0 or not name.isascii() or not name.decode().isprintable():
            break
        place += form.header + size + -size % form.align
    return place + 8 > len(data) >= place - 1  # a last chunk of odd size may lack the byte that makes it even


def _mended(data: Data, sound: _Sound, there: int) -> Stream:
    """Return a file whose header says 0 bytes of audio with the true number. Raises ValueError if it has no place."""
    if sound.field is None or there >= _ENDLESS:
        raise ValueError(f"its header says 0 bytes of audio, and {there} follow; {REMEDY}")
    mended = bytearray(data)
    struct.pack_into(">I" if bytes(data[:4]) == b"RIFX" else "<I", mended, sound.field, there)
    return Stream(bytes(mended), there)


MAGICS = (*_FORMS, b".snd", b"dns.", b"NIST")
"""First four bytes of the containers."""


def chunked_stream(data: Data) -> Stream:
    """Return the stream of a container of `MAGICS`, with its length mended if the header says 0.

    Raises ValueError if the header promises more than there is, or less than follows.
    """
    magic = bytes(data[:4])
    sound, form = _sound(data, magic), _FORMS.get(magic)
    if sound is None or sound.start > len(data):
        return Stream(data)  # libsndfile says what is wrong
    there = len(data) - sound.start
    if sound.said is None:
        return Stream(data, there)
    if sound.said > there:
        raise cut_off(there, sound.said, "bytes of audio")
    end = sound.start + sound.said
    if not sound.said and there and not _holds_chunks(data, end, form):
        return _mended(data, sound, there)
    if not _holds_chunks(data, end + (-sound.said % form.align if form else 0), form):
        raise ValueError(f"its header says {sound.said} bytes of audio, and {there - sound.said} more follow; {REMEDY}")
    return Stream(data, sound.said)
