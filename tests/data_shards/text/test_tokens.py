"""Token ids as they are stored."""

import io

import numpy as np
import pytest

from data_shards.text.tokens import read_tokens, tokens_npy


@pytest.mark.parametrize(("count", "vocab_size"), [(0, 300), (7, 2**16), (600, 2**16 + 1)])
def test_tokens_are_numpys_format(count, vocab_size):
    ids = [int(i) for i in np.random.default_rng(0).integers(0, vocab_size, count)]
    data = tokens_npy(ids, vocab_size)
    array = np.load(io.BytesIO(data))
    assert array.tolist() == ids == read_tokens(data).tolist()
    assert array.dtype == (np.uint16 if vocab_size <= 2**16 else np.uint32)
    buffer = io.BytesIO()
    np.save(buffer, array)
    assert buffer.getvalue() == data


@pytest.mark.parametrize("data", [b"", b"x" * 300, tokens_npy([1, 2], 9)[:-1], tokens_npy([1, 2], 9) + b"x"])
def test_damaged_tokens(data):
    with pytest.raises(ValueError):
        read_tokens(data)


def test_tokens_of_another_shape_or_type():
    for array in (np.zeros((2, 2), np.uint16), np.zeros(3), np.array([object()])):
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=True)
        with pytest.raises(ValueError, match="not a sequence of unsigned integers"):
            read_tokens(buffer.getvalue())
