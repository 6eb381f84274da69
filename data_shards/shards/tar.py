"""Plain tar as WebDataset uses it: members KEY.ext, with the members of one KEY side by side.

`sample_blocks` encodes a sample. `parse_sample` decodes a sample from its bytes. `scan` walks a whole archive, which
others may have written, and refuses everything that readers would silently lose, merge or misread.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

Data = bytes | memoryview
Members = dict[str, Data]

BLOCK = 512
_PAX = ord("x")  # type of a header with more facts on the next member
# Pax facts that change how a member is read; its time, for one, does not matter here.
_RELEVANT_PAX = re.compile(rb" (?:path|size|linkpath|hdrcharset|GNU\.)")
_LARGE = 4096  # from this size in bytes, a view is cheaper than a copy
END = bytes(2 * BLOCK)
"""End of an archive: two blocks of zeros."""

SKIPPED = re.compile("__[^/]*__/")
"""Beginning of the names that webdataset skips, as its own notes."""

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Sample(NamedTuple):
    """One sample as stored: its key, and its undecoded members by extension, without the dot."""

    key: str
    members: Members


@dataclass(frozen=True)
class Span:
    """Place of a sample in its archive: `size` bytes from its first header to the end of its last padding."""

    key: str
    offset: int
    size: int


def _padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o444, 0
    return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")


_EMPTY = _header("", 0)


def member_header(name: str, size: int) -> bytes:
    """512-byte ustar header of a member, without time, owner or other traces of the machine.

    Raises ValueError if `name` does not fit a ustar header (about 100 characters, or 255 with folders).
    """
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) > 100 or size >= 8**11:
        return _header(name, size)
    # The common case without tarfile's 25 us: put name, size and checksum into an empty header.
    start = encoded.ljust(100, b"\0") + _EMPTY[100:124] + b"%011o\0" % size + _EMPTY[136:148]
    header = start + b" " * 8 + _EMPTY[156:]
    return start + b"%06o\0 " % sum(header) + _EMPTY[156:]


def sample_blocks(key: str, members: dict[str, bytes]) -> bytes:
    """Bytes of a sample as tar members KEY.extension, sorted by extension."""
    blocks = []
    for extension, data in sorted(members.items()):
        blocks += [member_header(f"{key}.{extension}", len(data)), data, _padding(len(data))]
    return b"".join(blocks)


def is_foreign(name: str) -> bool:
    """Return True for names that are no sample's: hidden files, and files without an extension.

    WebDataset skips them too, but for hidden files of a folder, which it takes for members of a sample `FOLDER/`.
    """
    base = name.rpartition("/")[2]
    return base.startswith(".") or "." not in base


def split_name(name: str) -> tuple[str, str]:
    """Split `folder/KEY.ext` into (`folder/KEY`, `ext`). Raises ValueError if other readers would see another key."""
    folder, slash, base = name.rpartition("/")
    key, dot, extension = base.partition(".")
    if not (key and dot and extension):
        raise ValueError(f"member {name!r} is not named KEY.ext")
    if "." in extension:
        raise ValueError(f"member {name!r} has more than one dot: readers take {key!r} for its key")
    return folder + slash + key, extension


def _parse_plain(blocks: bytes) -> Sample:
    """Parse a sample of plain ustar headers, and of pax headers without facts that matter here.

    Raises KeyError, ValueError or IndexError for every other sample.
    """
    key, found, offset, whole = "", Members(), 0, len(blocks)
    while offset < whole:
        header = blocks[offset : offset + BLOCK]
        # GNU's variant has another magic, and keeps times where ustar has the prefix.
        if header[257:265] != b"ustar\x0000" or header[156] not in b"0\0x" or header[345]:
            raise KeyError(header[156:157])
        start = offset + BLOCK
        stop = start + int(header[124:135], 8)
        if stop > whole:
            raise ValueError("member longer than its sample")
        if header[156] == _PAX:
            if _RELEVANT_PAX.search(blocks, start, stop):
                raise KeyError("pax")
            offset = stop + -stop % BLOCK
            continue
        key, _, extension = header[: header.index(b"\0", 0, 101)].decode().rpartition(".")
        if "." in key or "/" in extension or not extension or key[-1:] in ("", "/"):
            raise ValueError("a name of another form")
        found[extension.lower()] = blocks[start:stop] if stop - start < _LARGE else memoryview(blocks)[start:stop]
        offset = stop + -stop % BLOCK
    return Sample(key, found)


def _parse_with_tarfile(blocks: bytes) -> Sample:
    """Parse a sample by `tarfile`, which is slower, and knows pax, GNU names and large sizes."""
    key, found = "", Members()
    with tarfile.open(fileobj=io.BytesIO(blocks), mode="r:") as archive:
        for member in archive:
            if member.size < 0:
                raise ValueError("a member of negative size")
            if not is_foreign(member.name) and (file := archive.extractfile(member)):
                key, extension = split_name(member.name)
                found[extension.lower()] = file.read()
    return Sample(key, found)


def parse_sample(blocks: bytes) -> Sample:
    """Key and members (by extension in lower case) of a sample. Large members are views of `blocks`.

    Raises ValueError or tarfile.TarError if `blocks` is no tar.
    """
    try:
        sample = _parse_plain(blocks)
    except (KeyError, ValueError, IndexError):
        sample = _parse_with_tarfile(blocks)
    if not sample.members:
        raise ValueError("no members")
    return sample


def read_member(read: Callable[[int, int], bytes], size: int, extension: str) -> bytes | None:
    """Read one member of a sample of `size` bytes, and only the headers of the others; None if it is not there.

    read(offset, count): bytes of the sample. Raises ValueError for a form that `parse_sample` alone understands.
    """
    offset, wanted = 0, extension.encode()
    while offset < size:
        header = read(offset, BLOCK)
        if header[257:262] != b"ustar" or header[156:157] not in (b"0", b"\0"):
            raise ValueError(f"a header of type {header[156:157]!r}")
        count = int(header[124:135], 8)
        name, _, found = header[:100].partition(b"\0")[0].rpartition(b".")
        if name and found.lower() == wanted:
            return read(offset + BLOCK, count)
        offset += BLOCK + count + -count % BLOCK
    return None


def best_effort_name(blocks: bytes, row: int) -> str:
    """Name of a sample whose bytes may be damaged: its row, and its key if it can be read."""
    name = blocks[:100].partition(b"\0")[0].decode("utf-8", "replace")
    return f"key {name.partition('.')[0]!r} (row {row})" if name.isprintable() and "." in name else f"row {row}"


def _check_start(path: Path) -> int:
    """Size of the archive in bytes. Raises ValueError if its start or size shows that it is compressed or no tar."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
    for magic, kind in _COMPRESSED.items():
        if start.startswith(magic):
            raise ValueError(f"{path}: compressed ({kind}), which cannot be indexed; unpack it to a plain .tar")
    if size == 0 or size % BLOCK:
        raise ValueError(f"{path}: truncated or no tar: {size} bytes is not a positive multiple of {BLOCK}")
    return size


def _check_end(path: Path, end: int, size: int) -> None:
    """Raise ValueError unless all bytes from `end` on are zeros, because tarfile takes any bad header for the end."""
    with path.open("rb") as file:
        file.seek(end)
        if end >= size:
            raise ValueError(f"{path}: truncated: no end-of-archive block after byte {end}")
        while chunk := file.read(1 << 20):
            if chunk.count(0) != len(chunk):
                raise ValueError(f"{path}: damaged header at byte {end}; {size - end} bytes behind it are lost")


def _checked_members(path: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the header of every member. Raises ValueError if the archive is truncated, damaged or compressed."""
    size = _check_start(path)
    try:
        with tarfile.open(path, "r:") as archive:
            yield from archive
            end = archive.offset
    except (tarfile.TarError, EOFError, OverflowError, ValueError) as error:
        raise ValueError(f"{path}: truncated or damaged tar: {error}") from error
    _check_end(path, end, size)


def scan(path: Path, skipped: list[str] | None = None) -> list[Span]:
    """Spans of the samples of an archive, in their order.

    skipped: gets the names of the members that are no sample's (`is_foreign`).
    Raises ValueError, with file and member, for compressed, truncated or damaged archives; links and devices; names
    that are not KEY.ext; repeated members; and members of one key that are not side by side.
    """
    spans: list[Span] = []
    keys: set[str] = set()
    extensions: set[str] = set()
    for member in _checked_members(path):
        if member.isdir():
            continue
        if is_foreign(member.name):
            if skipped is not None:
                skipped.append(member.name)
            continue
        if not member.isfile() or member.issparse():
            raise ValueError(f"{path}: member {member.name!r} is not a plain file (a link, a device, sparse)")
        try:
            key, extension = split_name(member.name)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; rename it") from None
        if SKIPPED.match(key):
            raise ValueError(f"{path}: member {member.name!r}: webdataset skips names that begin so; rename it")
        end = member.offset_data + member.size + -member.size % BLOCK
        if spans and key == spans[-1].key:
            if extension.lower() in extensions:
                raise ValueError(f"{path}: key {key!r} has two members .{extension.lower()}")
            spans[-1] = Span(key, spans[-1].offset, end - spans[-1].offset)
        elif key in keys:
            raise ValueError(f"{path}: key {key!r} comes twice, its members are not side by side or it is a duplicate")
        else:
            spans.append(Span(key, member.offset, end - member.offset))
            extensions.clear()
        keys.add(key)
        extensions.add(extension.lower())
    return spans
