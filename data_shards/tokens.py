"""A sequence of token ids as the member `npy` of a sample, without the tokenizer."""

from __future__ import annotations

import io

import numpy as np

TOKEN_EXTENSION = "npy"


def tokens_npy(ids: list[int], vocab_size: int) -> bytes:
    """Ids as .npy: uint16 where the vocabulary fits, else uint32."""
    buffer = io.BytesIO()
    np.save(buffer, np.array(ids, np.uint16 if vocab_size <= 2**16 else np.uint32))
    return buffer.getvalue()


def token_count(data: bytes) -> int:
    """Number of ids, from the header; ValueError where it is no .npy of one dimension of unsigned integers."""
    file = io.BytesIO(data)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("not an .npy of version 1.0")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if len(shape) != 1 or dtype.kind != "u":
        raise ValueError(f"an .npy of shape {shape} and type {dtype}, not a sequence of unsigned integers")
    if len(data) - file.tell() != shape[0] * dtype.itemsize:
        raise ValueError(f"an .npy of {len(data)} bytes that promises {shape[0]} ids")
    return int(shape[0])


def read_tokens(data: bytes) -> np.ndarray:
    """Ids uint16 or uint32 [T] of `tokens_npy`; ValueError as `token_count`."""
    count = token_count(data)
    array = np.load(io.BytesIO(data), allow_pickle=False)
    assert len(array) == count
    return array
