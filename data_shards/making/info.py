"""Description of shards from their index: counts, sizes, and a histogram of lengths."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import numpy as np

from configs.schema_modalities import Modality
from configs.schema_training import Patterns
from data_shards.kinds import UNKNOWN_UNIT, Unit, kind_of, modality_of
from data_shards.shards.bad_sample import BadSample
from data_shards.shards.index import Index, load_index
from data_shards.shards.reader import Reader
from data_shards.shards.storage import folder_of, name_of

_BINS = 12
"""Bars of the histogram."""
_BAR_WIDTH = 40
"""Characters of the longest bar."""
_WIDE_RATIO = 20.0
"""From this ratio of the longest to the shortest length, bins grow by a factor."""
_LARGEST_FIRST_MB = 16
"""Limit of the first sample, which is read to find the modality."""


def describe(shards: Patterns) -> list[str]:
    """Lines about the shards, grouped by folder and name. Only the first sample of each group is read from its tar.

    Raises ValueError as `load_index`.
    """
    index = load_index(shards)
    names = [f"{folder_of(path)}/{name_of(path).rpartition('-')[0]}" for path in index.paths]
    order = sorted(range(len(names)), key=lambda shard: names[shard])
    groups = [list(group) for _, group in groupby(order, key=lambda shard: names[shard])]
    lines = [line for group in groups for line in _group_lines(index, group)]
    if len(groups) > 1:
        size = sum(entry.filesize for entry in index.entries)
        lines += ["", f"in all: {index.samples:,} samples in {len(index.paths):,} shards, {_format_bytes(size)}"]
    return [*lines, *(f"warning: {warning}" for warning in index.warnings)][1:]


def _group_lines(index: Index, group: list[int]) -> Iterator[str]:
    """Yield an empty line, and lines about the shards `group`."""
    entries = [index.entries[shard] for shard in group]
    samples, size = sum(e.nsamples for e in entries), sum(e.filesize for e in entries)
    first, last = index.paths[group[0]], entries[-1].url
    yield from ("", first if len(group) == 1 else f"{first} ... {last}")
    sizes = sorted(e.filesize for e in entries)
    yield (
        f"  shards     {len(group):,}: {_format_bytes(size)}; smallest {_format_bytes(sizes[0])}, "
        f"mean {_format_bytes(size / len(group))}, largest {_format_bytes(sizes[-1])}"
    )
    yield f"  samples    {samples:,}" + (f": {_format_bytes(size / samples)} each" if samples else "")
    if index.classes:
        yield f"  classes    {len(index.classes):,}: {', '.join(index.classes[:5])}{', ...' * (len(index.classes) > 5)}"
    if index.tokenizer:
        yield f"  tokenizer  {index.tokenizer.vocab_size:,} types, sha256 {index.tokenizer.sha256[:12]}"
    if samples:
        modality = "text" if index.tokenizer else _first_sample_modality(index, group)
        unit = kind_of(modality).unit if modality else UNKNOWN_UNIT
        yield from _length_lines(np.concatenate([index.rows(shard)["length"] for shard in group]), unit)


def _length_lines(lengths: np.ndarray, unit: Unit) -> Iterator[str]:
    """Yield lines about the samples' lengths: sum, percentiles, histogram, and the unreadable ones."""
    known = lengths[lengths > 0]
    if len(known):
        yield f"  total      {_format_number(float(known.sum(dtype=np.int64)) * unit.total_one)} {unit.total}"
        middle = np.percentile(known, (0, 50, 95, 100), method="nearest") * unit.one
        least, median, high, most = map(_format_number, middle.tolist())
        yield f"  length     shortest {least}, median {median}, 95 % up to {high}, longest {most} {unit.name}"
        yield from _histogram(known, unit)
    if len(known) < len(lengths):
        yield f"  unreadable {len(lengths) - len(known):,} samples have length 0; shards validate deep=true names them"


def _histogram(lengths: np.ndarray, unit: Unit) -> Iterator[str]:
    """Yield the histogram's bars. Bins have equal widths or, if lengths differ much, equal ratios."""
    low, high = int(lengths.min()), int(lengths.max()) + 1
    step = -(-(high - low) // _BINS)
    equal = np.arange(low, high + step, step)
    edges = (
        np.unique(np.rint(np.geomspace(low, high, _BINS + 1)).astype(np.int64)) if high > _WIDE_RATIO * low else equal
    )
    counts, _ = np.histogram(lengths, edges)
    labels = [
        f"{_format_number(a * unit.one)} - {_format_number(b * unit.one)}"
        for a, b in zip(edges, edges[1:], strict=False)
    ]
    width = max(map(len, labels))
    for label, count in zip(labels, counts.tolist(), strict=True):
        bar = "#" * -(-count * _BAR_WIDTH // int(counts.max()))
        yield f"    {label:>{width}} {bar:<{_BAR_WIDTH}} {count:,}".rstrip()


def _first_sample_modality(index: Index, group: list[int]) -> Modality | None:
    """Modality of the samples, from the members of the first one; None if it is unknown or cannot be read."""
    first = next(shard for shard in group if index.entries[shard].nsamples)
    reader = Reader(index, 1, _LARGEST_FIRST_MB)
    try:
        return modality_of(reader.read(int(index.starts[first])).members)
    except (BadSample, OSError):  # the index suffices for the rest of the description
        return None
    finally:
        reader.close()


def _format_bytes(size: float) -> str:
    """Size with a binary unit."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def _format_number(value: float) -> str:
    """Number with three digits, or with all digits before the point."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.3g}"
