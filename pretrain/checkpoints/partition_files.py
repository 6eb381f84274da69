"""Partition files: a rank's share of a checkpoint, and any slice of any parameter out of the files of all ranks.

    rank_00003.safetensors   tensors PARTITION/KEY, flat fp32: `master`, Adam's `exp_avg` and `exp_avg_sq`, `teacher`;
                             its metadata map slices of partitions to slices of parameters

The reader may have another number of ranks and another ZeRO stage than the writer. Each rank reads the slices of its
own partitions, one at a time.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from data_shards.files import atomic_write
from pretrain.checkpoints.manifest import Damaged, FileEntry, patiently, rank_files
from pretrain.engine.layout import MASTER, Fragment

CHUNK = 2**24  # bytes hashed and written at a time


@dataclass(frozen=True)
class Layout:
    """Map of one rank's file: slices of its partitions -> slices of parameters."""

    partitions: tuple[str, ...]
    """Names of the partitions: the parameter's name if they are whole parameters, else numbers."""
    fragments: tuple[Fragment, ...]
    shapes: Mapping[str, Sequence[int]]
    """Shape of every parameter of the run."""

    def text(self) -> str:
        """JSON for the file's metadata."""
        fragments = [[f.name, f.partition, f.offset, f.start, f.numel] for f in self.fragments]
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        return json.dumps({"partitions": self.partitions, "fragments": fragments, "shapes": shapes})

    @staticmethod
    def parse(text: str) -> Layout:
        """Parse the result of `text`."""
        saved = json.loads(text)
        return Layout(tuple(saved["partitions"]), tuple(Fragment(*f) for f in saved["fragments"]), saved["shapes"])


def tensor_bytes(sizes: Mapping[str, int]) -> int:
    """Bytes of fp32 tensors with `sizes` elements."""
    return 4 * sum(sizes.values())


def write_partitions(
    path: Path,
    sizes: Mapping[str, int],
    tensor: Callable[[str], Tensor],
    layout: Layout,
    wrote: Callable[[int], None] = lambda size: None,
) -> FileEntry:
    """Write flat fp32 tensors to a safetensors file, durably; return its size and checksum.

    `tensor` is called once for each name, one at a time: safetensors' own writer needs all tensors in memory at once,
    and gives no checksum. sizes: elements of each tensor, by name. wrote: called with the number of bytes of each piece
    written. Raises OSError.
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
    """Header of a safetensors file: length and JSON, padded to a multiple of 8 bytes."""
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
    """Place of elements `start` to `start + numel` of a parameter: file, partition and offset in it."""

    start: int
    numel: int
    file: int
    partition: str
    offset: int


class PartitionFiles:
    """Files of all ranks that a checkpoint's manifest lists, read as whole parameters or as slices of them."""

    def __init__(self, folder: Path) -> None:
        """Raises Damaged that names the folder if files are missing or do not cover each parameter exactly once."""
        self.folder = folder
        paths = rank_files(folder)
        if not paths:
            raise Damaged(f"{folder}: its manifest lists no rank_*.safetensors; use the checkpoint before")
        try:
            self._files = [patiently(partial(safe_open, path, "pt"), path) for path in paths]
            layouts = [Layout.parse(file.metadata()["layout"]) for file in self._files]
            self._keys = [set(file.keys()) for file in self._files]
            self.shapes = {name: torch.Size(shape) for name, shape in layouts[0].shapes.items()}
            self._pieces = self._arrange(layouts)
        except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise Damaged(f"{folder}: a file of it cannot be read ({error}); use the checkpoint before") from error
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
        """Whole `key` of a parameter: fp32, in the parameter's shape, on the CPU."""
        flat = torch.empty(self.shapes[name].numel())
        self.read(name, key, 0, flat)
        return flat.view(self.shapes[name])

    def holds(self, name: str, key: str) -> bool:
        """True if the files hold `key` of the parameter."""
        return all(f"{piece.partition}/{key}" in self._keys[piece.file] for piece in self._pieces[name])

    def _arrange(self, layouts: Sequence[Layout]) -> dict[str, list[_Piece]]:
        """Pieces of each parameter."""
        pieces: dict[str, list[_Piece]] = {name: [] for name in self.shapes}
        for number, layout in enumerate(layouts):
            sizes = self._sizes(number)
            for f in layout.fragments:
                partition = layout.partitions[f.partition]
                if f.offset < 0 or f.offset + f.numel > sizes.get(partition, 0):
                    raise ValueError(f"partition {partition} does not hold all of {f.name}")
                pieces[f.name].append(_Piece(f.start, f.numel, number, partition, f.offset))
        return pieces

    def _sizes(self, number: int) -> dict[str, int]:
        """Elements of each partition of a file that are there of its masters and of all its other states."""
        found: dict[str, int] = {}
        for key in self._keys[number]:
            partition, size = key.rpartition("/")[0], math.prod(self._files[number].get_slice(key).get_shape())
            found[partition] = min(size, found.get(partition, size))
        return {name: size for name, size in found.items() if f"{name}/{MASTER}" in self._keys[number]}

    def _check_cover(self, name: str, pieces: list[_Piece]) -> None:
        reached = 0
        for piece in pieces:
            if piece.start != reached:
                break
            reached += piece.numel
        if reached != self.shapes[name].numel() or sum(p.numel for p in pieces) != reached:
            raise Damaged(f"{self.folder}: the ranks' files do not cover {name} exactly once; files are missing")
