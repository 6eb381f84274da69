"""Lines and paragraphs of text files, compressed or not, by their places in the file."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_DOCUMENT = 2**28
"""Limit of a document's size in bytes, 256 MiB: longer documents are collections in the wrong form."""

_LONGEST_WINDOW = 31  # log2 of the bytes: all that `zstd --long=31` writes, at the price of 2 GiB of memory
_PIECE = 2**20


def _open_zst(path: str) -> zstd.ZstdFile:
    return zstd.open(path, options={zstd.DecompressionParameter.window_log_max: _LONGEST_WINDOW})


_OPEN: dict[str, Callable[[str], Any]] = {
    "gz": gzip.open,
    "zst": _open_zst,
    "bz2": bz2.open,
    "xz": lzma.open,
}
COMPRESSED = tuple(_OPEN)
"""Extensions of compressed files that are read."""
OTHER_ARCHIVES = ("zip", "tar", "tgz", "tbz2", "txz", "7z", "rar", "lz4", "br", "lzma", "z", "lzo", "sz")
"""Extensions of compressed files and archives that are not read."""
RATIO = 3.5
"""Approximate ratio of text to compressed text."""
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, zstd.ZstdError)
UNREADABLE_ERRORS = (OSError, *_DAMAGE)
"""Errors of reading and decompressing."""


def codec_of(path: str) -> str | None:
    """Extension of a compressed file; None if the file is not compressed."""
    codec = path.rpartition(".")[2].lower()
    return codec if codec in _OPEN else None


def bare_name(name: str) -> str:
    """Name of a file without the extension of its compression."""
    codec = codec_of(name)
    return name[: -len(codec) - 1] if codec else name


class _Decompressed(io.RawIOBase):
    """A compressed file's content, in pieces as they are decompressed: nothing before a damage is lost."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def open_file(path: str) -> BinaryIO:
    """Open a file, and decompress it if its name says so."""
    codec = codec_of(path)
    return io.BufferedReader(_Decompressed(_OPEN[codec](path)), _PIECE) if codec else open(path, "rb")


def is_damage(error: BaseException) -> bool:
    """True if the bytes of a file are damaged or incomplete, False if the operating system cannot read them."""
    return isinstance(error, _DAMAGE) or (isinstance(error, OSError) and error.errno is None)


@dataclass(frozen=True)
class Block:
    """A line or a paragraph: the byte and the line at which it begins, its size, and its bytes unless it is too long.

    A line is counted from the first one that begins in bytes [start, stop).
    """

    position: int
    line: int
    size: int
    data: bytes | None

    @property
    def blank(self) -> bool:
        return self.data is not None and not self.data.strip()


def _rest_of_line(file: BinaryIO, most: int | None = None) -> int:
    """Skip the rest of a line, or about `most` bytes of it; returns the number of bytes skipped."""
    skipped = 0
    while (most is None or skipped <= most) and (piece := file.readline(_PIECE)):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            break
    return skipped


def all_lines(file: BinaryIO, start: int, stop: int) -> Iterator[Block]:
    """Yield the lines of a file from the first one that begins in [start, stop); none if no line begins there."""
    position, number = start, 0
    if start:
        file.seek(start - 1)
        position += _rest_of_line(file, stop - start) - 1
    if position >= stop:
        return
    while data := file.readline(MAX_DOCUMENT):
        cut = len(data) == MAX_DOCUMENT and not data.endswith(b"\n")
        size = len(data) + (_rest_of_line(file) if cut else 0)
        yield Block(position, number, size, data if size <= MAX_DOCUMENT else None)
        position, number = position + size, number + 1


def lines(blocks: Iterable[Block], stop: int) -> Iterator[Block]:
    """Yield the lines that begin before `stop`, without blank ones."""
    for block in blocks:
        if block.position >= stop:
            return
        if not block.blank:
            yield block


def paragraphs(blocks: Iterable[Block], stop: int, begins_file: bool) -> Iterator[Block]:
    """Yield the blocks between blank lines whose preceding blank line begins before `stop`.

    begins_file: the first lines are a paragraph too, though no blank line precedes them.
    """
    pieces, size, begin, ours = list[bytes](), 0, None, begins_file
    for block in blocks:
        if not block.blank:
            if ours:
                begin, size = begin or block, size + block.size
                pieces.append(block.data or b"")
                if size > MAX_DOCUMENT:
                    pieces.clear()
            continue
        if begin:
            yield _joined(begin, size, pieces)
        if block.position >= stop:
            return
        pieces, size, begin, ours = [], 0, None, True
    if begin:
        yield _joined(begin, size, pieces)


def _joined(begin: Block, size: int, pieces: list[bytes]) -> Block:
    return Block(begin.position, begin.line, size, b"".join(pieces) if size <= MAX_DOCUMENT else None)


@lru_cache(maxsize=64)
def lines_before(path: str, start: int) -> int:
    """Number of lines of an uncompressed file that begin before the first one that begins at or after `start`."""
    if not start:
        return 0
    count, left = 0, start - 1
    with Path(path).open("rb") as file:
        while left > 0 and (piece := file.read(min(left, _PIECE))):
            count, left = count + piece.count(b"\n"), left - len(piece)
    return count + 1
