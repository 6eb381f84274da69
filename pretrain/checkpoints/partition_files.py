"""A rank's share of a checkpoint as one safetensors file, and reading any slice of any parameter out of all of them.

    rank_00003.safetensors   tensors PARTITION/KEY, flat fp32: `master`, Adam's `exp_avg` and `exp_avg_sq`, `teacher`;
                             its metadata say which slice of which partition is which slice of which parameter

Ranks and ZeRO stage of the run that wrote the files do not matter to the one that reads them: each rank reads the
slices that lie in its own partitions, one at a time.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from data_shards.files import atomic_write
from pretrain.checkpoints.manifest import FileEntry
from pretrain.engine.layout import Fragment

CHUNK = 2**24  # bytes that are hashed and written at a time


@dataclass(frozen=True)
class Layout:
    """Where one rank keeps what."""

    partitions: tuple[str, ...]
    """Names of its partitions: a parameter's where they are whole parameters, else numbers."""
    fragments: tuple[Fragment, ...]
    shapes: Mapping[str, Sequence[int]]
    """Of every parameter of the run."""

    def text(self) -> str:
        """As JSON, for the file's metadata."""
        fragments = [[f.name, f.partition, f.offset, f.start, f.numel] for f in self.fragments]
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        return json.dumps({"partitions": self.partitions, "fragments": fragments, "shapes": shapes})

    @staticmethod
    def parse(text: str) -> Layout:
        """The reverse of `text`."""
        saved = json.loads(text)
        return Layout(tuple(saved["partitions"]), tuple(Fragment(*f) for f in saved["fragments"]), saved["shapes"])


def file_name(rank: int) -> str:
    """Name of a rank's file."""
    return f"rank_{rank:05d}.safetensors"


def tensor_bytes(sizes: Mapping[str, int]) -> int:
    """Bytes of tensors of so many elements."""
    return 4 * sum(sizes.values())


def write_partitions(
    path: Path,
    sizes: Mapping[str, int],
    tensor: Callable[[str], Tensor],
    layout: Layout,
    wrote: Callable[[int], None] = lambda size: None,
) -> FileEntry:
    """Write flat fp32 tensors as a safetensors file that is on the disk when this returns; its size and checksum.

    The library's own writer wants all tensors in memory as bytes and tells no checksum; here they are fetched one at a
    time. sizes: elements of each, by name. wrote: called with the bytes of each piece. Raises OSError.
    """
    digest, size = hashlib.sha256(), 0
    with atomic_write(path) as file:
        for piece in _pieces(sizes, tensor, layout):
            file.write(piece)
            digest.update(piece)
            size += len(piece)
            wrote(len(piece))
    return FileEntry(size, digest.hexdigest())


def _pieces(sizes: Mapping[str, int], tensor: Callable[[str], Tensor], layout: Layout) -> Iterator[bytes | memoryview]:
    yield _header(sizes, layout)
    for name, size in sizes.items():
        flat = tensor(name).detach().reshape(-1)
        assert flat.dtype == torch.float32 and flat.numel() == size
        for part in flat.split(CHUNK // 4):
            yield memoryview(part.cpu().contiguous().numpy()).cast("B")


def _header(sizes: Mapping[str, int], layout: Layout) -> bytes:
    """Length and JSON, padded to 8 bytes (the safetensors format)."""
    entries: dict[str, Any] = {"__metadata__": {"layout": layout.text()}}
    offset = 0
    for name, size in sizes.items():
        entries[name] = {"dtype": "F32", "shape": [size], "data_offsets": [offset, offset + 4 * size]}
        offset += 4 * size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


@dataclass(frozen=True)
class _Piece:
    """Elements `start` to `start + numel` of a parameter: where they are."""

    start: int
    numel: int
    file: int
    partition: str
    offset: int


class PartitionFiles:
    """The files of all ranks of one checkpoint, as one source of whole parameters and of slices of them."""

    def __init__(self, folder: Path) -> None:
        """Raises ValueError that names the folder where files are missing or do not cover every parameter once."""
        self.folder = folder
        paths = sorted(folder.glob("rank_*.safetensors"))
        if not paths:
            raise ValueError(f"{folder} holds no rank_*.safetensors: it is no checkpoint of this version")
        try:
            self._files = [safe_open(path, "pt") for path in paths]
            layouts = [Layout.parse(file.metadata()["layout"]) for file in self._files]
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder}: a file of it cannot be read ({error}); use the checkpoint before") from error
        self._keys = [set(file.keys()) for file in self._files]
        self.shapes = {name: torch.Size(shape) for name, shape in layouts[0].shapes.items()}
        self._pieces: dict[str, list[_Piece]] = {name: [] for name in self.shapes}
        for number, layout in enumerate(layouts):
            for f in layout.fragments:
                piece = _Piece(f.start, f.numel, number, layout.partitions[f.partition], f.offset)
                self._pieces[f.name].append(piece)
        for name, pieces in self._pieces.items():
            pieces.sort(key=lambda piece: piece.start)
            self._check_cover(name, pieces)

    def read(self, name: str, key: str, start: int, out: Tensor) -> None:
        """Fill flat `out` with elements `start` to `start + out.numel()` of the parameter's `key`."""
        pieces, end = self._pieces[name], start + out.numel()
        first = bisect_right([piece.start for piece in pieces], start) - 1
        for piece in pieces[max(first, 0) :]:
            left, right = max(start, piece.start), min(end, piece.start + piece.numel)
            if left >= end or piece.start >= end:
                break
            if left < right:
                offset = piece.offset + left - piece.start
                values = self._files[piece.file].get_slice(f"{piece.partition}/{key}")[offset : offset + right - left]
                out[left - start : right - start].copy_(values)

    def whole(self, name: str, key: str) -> Tensor:
        """A parameter's `key`, fp32 in its shape, on the CPU."""
        flat = torch.empty(self.shapes[name].numel())
        self.read(name, key, 0, flat)
        return flat.view(self.shapes[name])

    def holds(self, name: str, key: str) -> bool:
        """Whether `key` was kept of the parameter."""
        return all(f"{piece.partition}/{key}" in self._keys[piece.file] for piece in self._pieces[name])

    def _check_cover(self, name: str, pieces: list[_Piece]) -> None:
        reached = 0
        for piece in pieces:
            if piece.start != reached:
                break
            reached += piece.numel
        if reached != self.shapes[name].numel() or sum(p.numel for p in pieces) != reached:
            raise ValueError(f"{self.folder}: the ranks' files do not cover {name} exactly once; files are missing")
