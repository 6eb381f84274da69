"""Images of every kind to RGB, next to Pillow; damage and bombs are refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data_shards.shards.bad_sample import BadSample
from data_shards.vision.samples import decode
from tests.data_shards.shard_tools import encoded


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "L"), ("PNG", "1"),
     ("WEBP", "RGB"), ("BMP", "RGB")],
)  # fmt: skip
def test_every_kind_decodes_to_rgb_as_pillow_does(kind, mode):
    data = encoded(3, kind, mode=mode)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.abs(decode(data).astype(int) - expected).max() <= 1


@pytest.mark.filterwarnings("error")
def test_a_palette_with_transparency_says_nothing_and_keeps_its_colours():
    buffer, image = io.BytesIO(), Image.open(io.BytesIO(encoded(3, "PNG", mode="P")))
    image.save(buffer, "PNG", transparency=bytes(range(256)))
    assert np.array_equal(decode(buffer.getvalue()), np.asarray(image.convert("RGB")))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0" + bytes(40), b"no"])
def test_damaged_exif_turns_nothing(exif):
    data = encoded(3)
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    assert np.array_equal(decode(data[:2] + segment + data[2:]), decode(data))


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_with_and_without_adobes_inversion(adobe):
    """Inks of (0, 255, 255, 0) are red, and stored as their complement where Adobe's marker is there."""
    inks, buffer = np.full((16, 16, 4), (0, 255, 255, 0), np.uint8), io.BytesIO()
    Image.fromarray(inks if adobe else 255 - inks, "CMYK").save(buffer, "JPEG", quality=100)
    data = buffer.getvalue()
    marker = data.index(b"\xff\xee\x00\x0eAdobe")
    data = data if adobe else data[:marker] + data[marker + 16 :]
    assert np.abs(decode(data).astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize(
    ("kind", "dtype", "scale"), [("PNG", np.uint16, 65535), ("PPM", np.int32, 65535), ("TIFF", np.float32, 1)]
)
def test_grey_of_more_than_8_bits_is_scaled(kind, dtype, scale):
    levels, buffer = np.linspace(0, scale, 256).reshape(16, 16), io.BytesIO()
    Image.fromarray(levels.astype(dtype)).save(buffer, kind)
    expected = np.arange(256).reshape(16, 16, 1).repeat(3, axis=2)
    assert np.array_equal(decode(buffer.getvalue()), expected)


def test_floating_point_beyond_1_is_refused_and_not_clipped():
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 200, np.float32)).save(buffer, "TIFF")
    with pytest.raises(BadSample, match="outside of 0 to 1"):
        decode(buffer.getvalue())


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_dropped(mode):
    """As torchvision's loader does: what is transparent keeps its colour."""
    image = Image.new("RGBA", (8, 8), (200, 200, 200, 0)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **({"transparency": 0} if mode == "P" else {}))
    assert np.unique(decode(buffer.getvalue())).tolist() == np.unique(np.array(image.convert("RGB"))).tolist()


def test_a_bomb_is_refused_as_too_large_whatever_pillow_thinks():
    """A PNG whose header promises 10 gigapixels."""
    header = struct.pack(">II5B", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    with pytest.raises(BadSample, match="100000 x 100000 pixels") as error:
        decode(data + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))
    assert error.value.kind == "too_large"


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGBA"), ("PNG", "P"), ("PNG", "1"), ("PNG", "I;16"), ("JPEG", "CMYK"), ("GIF", "P")]
)
def test_conversion_in_strips_changes_nothing(kind, mode, monkeypatch):
    data = encoded(3, kind, mode="L") if mode == "I;16" else encoded(3, kind, mode=mode)
    if mode == "I;16":
        buffer = io.BytesIO()
        Image.fromarray(decode(data)[:, :, 0].astype(np.uint16) * 257).save(buffer, kind)
        data = buffer.getvalue()
    whole = decode(data)
    monkeypatch.setattr("data_shards.vision.decoding._STRIP", 100)
    assert np.array_equal(decode(data), whole)
