"""A sequence of token ids as the member `npy` of a sample, without the tokenizer.

The bytes are numpy's format 1.0. Parsed headers are cached: numpy's own reader takes 0.15 ms for each, more than all
other work on a short sequence, and the sequences of a data set have few different headers.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from configs.signals import UNK
from data_shards.shards.tar import Data

TOKEN_EXTENSION = "npy"

_LENGTH_END = 10  # bytes before the header: magic 6, version 2, length of the header 2


@lru_cache(maxsize=4096)
def _written_header(count: int, dtype: type) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(count, dtype))
    return buffer.getvalue()[: -count * np.dtype(dtype).itemsize or None]


@lru_cache(maxsize=4096)
def _read_header(header: bytes) -> tuple[int, np.dtype]:
    """Return the count and the type. Raises ValueError unless they are unsigned integers in one dimension."""
    file = io.BytesIO(header)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("not an .npy of version 1.0")
    try:
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception as error:  # numpy parses the header as Python, which raises anything
        raise ValueError(f"no header of an .npy ({type(error).__name__})") from None
    if len(shape) != 1 or dtype.kind != "u":
        raise ValueError(f"an .npy of shape {shape} and type {dtype}, not a sequence of unsigned integers")
    return int(shape[0]), dtype


def tokens_npy(ids: Sequence[int], vocab_size: int) -> bytes:
    """Return ids as .npy: uint16 if the vocabulary fits, else uint32."""
    dtype = np.uint16 if vocab_size <= 2**16 else np.uint32
    return _written_header(len(ids), dtype) + np.array(ids, dtype).tobytes()


def read_tokens(data: Data) -> np.ndarray:
    """Return the ids, unsigned [T]. Raises ValueError if the bytes are no .npy of ids, or are cut off."""
    start = _LENGTH_END + int.from_bytes(data[8:_LENGTH_END], "little")
    count, dtype = _read_header(bytes(data[:start]))
    if len(data) - start != count * dtype.itemsize:
        raise ValueError(f"an .npy of {len(data)} bytes that promises {count} ids")
    return np.frombuffer(data, dtype, count, start)


def token_count(data: Data) -> int:
    """Return the number of ids. Raises ValueError as `read_tokens` does."""
    return len(read_tokens(data))


def check_tokens(data: Data, types: int | None) -> int:
    """Return the number of ids. Raises ValueError as `read_tokens` does, and for an id not below `types`.

    types: those of the tokenizer.
    """
    ids = read_tokens(data)
    if types is not None and len(ids) and ids.max() >= types:
        raise ValueError(f"token {ids.max()}, and the tokenizer has {types} types")
    return len(ids)


def empty(data: Data) -> bool:
    """Return True if there are no tokens but special ones. Raises ValueError as `read_tokens` does."""
    return not (read_tokens(data) >= UNK).any()
