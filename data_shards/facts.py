"""Facts about a data set that its shards tell, so that nobody has to type them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from configs.schema_modalities import Modality
from configs.schema_training import DataConfig
from data_shards.kinds import modality_of, nothing_known
from data_shards.shards.bad_sample import BadSample
from data_shards.shards.index import Index, load_index
from data_shards.shards.reader import Reader

_LOOKED_AT = 8
"""Shards whose first samples tell the modality, at most: one sample may be damaged, or a shard of another kind."""
_LARGEST_FIRST_MB = 16
_MEASURED = 10_000
"""Samples whose lengths tell the usual one, at most."""
"""Limit of a sample that is read for its modality alone."""


@dataclass(frozen=True)
class Amount:
    """Amount of data."""

    samples: int
    length: int
    """Median of the samples' `length` (a column of the index, see `sidecar.ROW`) in the first shard; 0 if unknown."""


def amount_of(data: DataConfig) -> Amount:
    """Return the amount of data in `data.shards`. Raises ValueError and Unreachable as `load_index`."""
    index = load_index(data)
    first = next(shard for shard, entry in enumerate(index.entries) if entry.nsamples)
    lengths = index.rows(first)["length"][:_MEASURED]
    known = lengths[lengths > 0]
    return Amount(index.samples, int(np.median(known)) if len(known) else 0)


def modality_of_shards(data: DataConfig) -> Modality:
    """Return the modality of the samples of `data.shards`.

    Raises ValueError as `load_index`, if the samples are of none, and if they are of several.
    """
    index = load_index(data)
    shards = [shard for shard, entry in enumerate(index.entries) if entry.nsamples]
    spread = shards[:: -(-len(shards) // _LOOKED_AT)]
    found, unknown = dict[Modality, int](), ""
    for shard, names in first_members(index, spread):
        if modality := modality_of(names):
            found.setdefault(modality, shard)
        else:
            unknown = nothing_known(names)
    match list(found.items()):
        case [(modality, _)]:
            return modality
        case [(one, first), (other, second), *_]:
            places = f"{one} in {index.paths[first]}, {other} in {index.paths[second]}"
            raise ValueError(f"data.shards has samples of several modalities: {places}; give those of one")
        case _:
            reason = unknown or "the first samples cannot be read (see ./run.sh shards validate)"
            raise ValueError(f"data.shards={data.shards}: {reason}; give shards of images, recordings or texts")


def first_members(index: Index, shards: Sequence[int]) -> Iterator[tuple[int, list[str]]]:
    """Yield (shard, extensions of the members of its first sample); shards whose first sample is bad are left out."""
    reader = Reader(index, 1, _LARGEST_FIRST_MB)
    try:
        for shard in shards:
            try:
                yield shard, sorted(reader.read(int(index.starts[shard])).members)
            except BadSample:
                continue
    finally:
        reader.close()
