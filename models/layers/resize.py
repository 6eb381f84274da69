"""Learned tables of positions for another number of positions, to go on from weights of another size."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_WITH_CLS = 3
"""Last rows of a table of offsets: cls to token, token to cls, cls to cls."""


def resized_offsets(table: Tensor, rows: int) -> Tensor:
    """Return the relative position table [R, heads] of images for a grid whose table has `rows` rows.

    The (2 g - 1)^2 offsets are interpolated bicubically, the largest onto the largest, since a picture of the same
    thing fills the grid whatever its size. The rows of CLS stay. Raises ValueError if either is no table of a square
    grid.
    """
    old, new = (math.isqrt(max(0, count - _WITH_CLS)) for count in (len(table), rows))
    if old**2 + _WITH_CLS != len(table) or new**2 + _WITH_CLS != rows:
        raise ValueError(f"a table of {len(table)} rows is none of a square grid that {rows} rows could follow from")
    offsets = table[:-_WITH_CLS].T.reshape(1, -1, old, old).float()
    resized = F.interpolate(offsets, size=(new, new), mode="bicubic", align_corners=True)
    return torch.cat([resized[0].flatten(1).T.to(table.dtype), table[-_WITH_CLS:]])


def repeated_rows(table: Tensor, rows: int, first: int) -> Tensor:
    """Return the table [R, H] of learned positions with `rows` rows; positions begin at row `first`.

    Fewer rows: the first ones. More rows: the positions in turn again, as Longformer begins (Beltagy et al. 2020, arXiv
    2004.05150), whose neighbours stay neighbours.
    """
    if rows <= len(table):
        return table[:rows].clone()
    positions = torch.arange(rows - first) % (len(table) - first)
    return torch.cat([table[:first], table[first:][positions]])
