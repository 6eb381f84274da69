"""Description of shards: counts, sizes, a histogram of lengths, classes, and what should not be there."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import numpy as np

from configs.output.stages import stage
from configs.schema_modalities import Modality
from configs.schema_training import Patterns
from data_shards.facts import first_members
from data_shards.kinds import UNKNOWN_UNIT, Kind, Unit, kind_of, modality_of
from data_shards.making.contents import Contents, class_lines, flaw_lines, look
from data_shards.making.repeats import same_bytes, same_content
from data_shards.shards.held_out import spread
from data_shards.shards.index import Index, load_index
from data_shards.shards.storage import folder_of, is_remote, name_of

_BINS = 12
"""Bars of the histogram."""
_BAR_WIDTH = 40
"""Characters of the longest bar."""
_WIDE_RATIO = 20.0
"""From this ratio of the longest to the shortest length, bins grow by a factor."""


def describe(
    shards: Patterns, deep: bool = False, samples: int | None = None, workers: int | None = None
) -> Iterator[str]:
    """Yield lines about the shards, grouped by folder and name: first those that the index knows, at once.

    Then the classes are counted. deep: decode the samples too. samples: look into so many only, evenly spread; None:
    all, but remote ones, which are read for `deep` alone. workers: processes, None for one per core.
    Raises ValueError as `load_index`, Unreachable as `Reader.read`.
    """
    with stage("reading the index"):
        index = load_index(shards)
    chosen = None if samples is None else np.array(spread(index, samples))
    groups, decoded = _groups(index), Contents()
    for number, group in enumerate(groups):
        yield from ("",) * (number > 0)
        with stage("reading the sidecars"):
            lines = list(_group_lines(index, group))
        yield from lines
        if deep or samples or not any(is_remote(index.paths[shard]) for shard in group):
            contents = look(index, group, chosen, deep, workers)
            yield from class_lines(contents, index.classes, chosen is not None)
            yield from flaw_lines(contents)
            decoded.merge(contents)
        else:
            yield "  classes    not counted in remote shards; n=1000 counts those of 1,000 samples"
    yield from _closing_lines(index, len(groups), decoded if deep else None)


def _groups(index: Index) -> list[list[int]]:
    """Shards of one folder and one name, in groups."""
    names = [f"{folder_of(path)}/{name_of(path).rpartition('-')[0]}" for path in index.paths]
    order = sorted(range(len(names)), key=lambda shard: names[shard])
    return [list(group) for _, group in groupby(order, key=lambda shard: names[shard])]


def _closing_lines(index: Index, groups: int, decoded: Contents | None) -> Iterator[str]:
    """Yield lines about all groups together. decoded: contents of decoded samples, None if none were decoded."""
    if groups > 1:
        size = sum(entry.filesize for entry in index.entries)
        yield from ("", f"in all: {index.samples:,} samples in {len(index.paths):,} shards, {_format_bytes(size)}")
    with stage("looking for samples that are there twice"):
        found = [same_bytes(index), same_content(index, decoded.ids, decoded.hashes) if decoded else ""]
    yield from (f"attention: {words}" for words in found if words)
    if decoded is None:
        yield "not decoded: deep=true finds damage, silence, images of one colour, content that is there twice"
    yield from (f"warning: {warning}" for warning in index.warnings)


def _kind(index: Index, group: list[int]) -> Kind | None:
    """Kind of the samples of a group; None if it is unknown or cannot be read."""
    modality = "text" if index.tokenizer else _first_sample_modality(index, group)
    return kind_of(modality) if modality else None


def _group_lines(index: Index, group: list[int]) -> Iterator[str]:
    """Yield lines about the shards `group` from the index alone."""
    entries = [index.entries[shard] for shard in group]
    samples, size = sum(e.nsamples for e in entries), sum(e.filesize for e in entries)
    first, last = index.paths[group[0]], entries[-1].url
    yield first if len(group) == 1 else f"{first} ... {last}"
    sizes = sorted(e.filesize for e in entries)
    yield (
        f"  shards     {len(group):,}: {_format_bytes(size)}; smallest {_format_bytes(sizes[0])}, "
        f"mean {_format_bytes(size / len(group))}, largest {_format_bytes(sizes[-1])}"
    )
    yield f"  samples    {samples:,}" + (f": {_format_bytes(size / samples)} each" if samples else "")
    if index.tokenizer:
        yield f"  tokenizer  {index.tokenizer.vocab_size:,} types, sha256 {index.tokenizer.sha256[:12]}"
    if samples:
        kind = _kind(index, group)
        lengths = np.concatenate([index.rows(shard)["length"] for shard in group])
        yield from _length_lines(lengths, kind.unit if kind else UNKNOWN_UNIT)
        if kind and (small := int(((lengths > 0) & (lengths <= kind.small)).sum())):
            yield f"  attention  {small:,} of {samples:,}: {kind.small_words}"


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
    try:
        return next((modality_of(names) for _, names in first_members(index, [first])), None)
    except OSError:  # the index suffices for the rest of the description
        return None


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
