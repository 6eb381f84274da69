"""Images of every accepted kind under any name, and words for what is none."""

import io

import numpy as np
import pytest
from PIL import Image

from data_shards.shards.bad_sample import BadSample
from data_shards.vision.decoding import decode, image_length
from data_shards.vision.formats import FORMATS, what_it_is
from tests.data_shards.shard_tools import encoded


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read_whatever_its_name(kind):
    data = encoded(3, kind, (400, 300))
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.abs(decode(data).astype(int) - expected).max() <= 1
    assert image_length(data) == 120


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image, which is not read; convert it to JPEG or PNG"),
        (b"\0\0\0\x18ftypisom", "a video"),
        (b"\xff\x0a" + bytes(40), "a JPEG XL image, which is not read; convert it to JPEG or PNG"),
        (b"\n<!DOCTYPE HTML><html>", "a web page"),
        (b"<?xml version='1.0'?><svg/>", "an SVG image, or other XML"),
        (b"PK\3\4", "a compressed file"),
        (bytes(100), "zeros"),
        (b"", "0 bytes"),
        (b"something", "of no known format"),
        (encoded(0, "GIF")[:8], "damaged"),
        (b"\xff\xd8\xff", ""),
    ],
)
def test_what_is_no_image_is_said_without_an_objects_address(data, words):
    for use, error in ((decode, BadSample), (image_length, ValueError)):
        with pytest.raises(error) as told:
            use(data)
        assert str(told.value).startswith(f"not decodable: {words}")
        assert "0x" not in str(told.value) and "<_io" not in str(told.value)


def test_words_are_found_by_the_first_bytes():
    assert what_it_is(memoryview(b"%PDF-1.4")) == "a PDF or PostScript document"
