"""Samples that are there more than once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import numpy as np

from data_shards.shards.index import Index
from data_shards.shards.reader import Reader
from data_shards.shards.storage import folder_of

_NAMED = 3
"""Pairs that are named."""


def same_bytes(index: Index) -> str:
    """Words about samples whose size and checksum in the sidecars agree, key included; "" if there are none."""
    rows = [index.rows(shard) for shard in range(len(index.paths))]
    sizes, checksums = (
        np.concatenate([np.asarray(part[name], np.uint64) for part in rows]) for name in ("size", "crc")
    )
    count, pairs = _repeated(sizes << np.uint64(32) | checksums, np.arange(index.samples))
    if not count:
        return ""
    return f"{_samples(count)} there twice, key included (by size and checksum): {_named(index, count, pairs)}"


def same_content(index: Index, ids: Sequence[int], hashes: Sequence[int]) -> str:
    """Words about decoded samples with the same image, recording or text, whatever their keys; "" if there are none.

    ids: of the samples; hashes: of their content.
    """
    count, pairs = _repeated(np.array(hashes, np.uint64), np.array(ids, np.int64))
    if not count:
        return ""
    return f"{_samples(count)} there twice, byte for byte, whatever the keys: {_named(index, count, pairs)}"


def _repeated(marks: np.ndarray, ids: np.ndarray) -> tuple[int, list[tuple[int, int]]]:
    """(number of samples whose mark an earlier one has, pairs of ids of the first of them)."""
    order = marks.argsort(kind="stable")
    same = np.flatnonzero(marks[order][1:] == marks[order][:-1])
    pairs = [(int(ids[order[place]]), int(ids[order[place + 1]])) for place in same[:_NAMED].tolist()]
    return len(same), pairs


def _samples(count: int) -> str:
    return f"{count:,} sample{'s are' if count > 1 else ' is'}"


def _named(index: Index, count: int, pairs: Sequence[tuple[int, int]]) -> str:
    """Names of the samples of pairs, with their shards, and with the folders too if there are several."""
    folders = {folder_of(path) for path in index.paths}
    prefix = f"{folders.pop()}/" if len(folders) == 1 else ""
    with closing(Reader(index, 1)) as reader:
        names = [tuple(reader.name(sample).removeprefix(prefix) for sample in pair) for pair in pairs]
    return ", ".join(" = ".join(pair) for pair in names) + ", ..." * (count > len(pairs))
