"""Encoded images -> RGB pixels: limits, decoders, and the orientation that EXIF gives."""

from __future__ import annotations

import io
import struct

import numpy as np
import simplejpeg
from PIL import Image, ImageChops, UnidentifiedImageError

from configs.schema_modalities import VisionConfig
from data_shards.shards.bad_sample import BadSample
from data_shards.shards.tar import Data
from data_shards.vision.formats import FORMATS, what_it_is

DEFAULTS = VisionConfig()
"""Limits and orientation for callers without a run's configuration."""

_ORIENTATION = 0x0112  # EXIF's tag
_TILE = (322, 323)  # TIFF's tags of the width and height of tiles
_START_OF_SCAN, _APP1 = 0xDA, 0xE1
_MOST_SCANS = 100  # of a JPEG. Encoders write about ten; each goes over the whole image, and an empty one has 10 bytes
_STRIP = 1 << 20  # pixels that are converted at once


def jpeg_size(data: Data) -> tuple[int, int]:
    """Return (height, width) of a JPEG that simplejpeg decodes as Pillow does.

    Raises ValueError for CMYK, for damage and for other formats.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError("not a JPEG")
    height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    if space not in ("YCbCr", "Gray", "RGB"):
        raise ValueError(f"colour space {space}")
    return height, width


def jpeg_orientation(data: Data) -> int:
    """Return EXIF's orientation of a JPEG, 1 to 8; 1 if none can be read."""
    place = 2
    while len(data) > place + 4 and data[place] == 0xFF and data[place + 1] != _START_OF_SCAN:
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if data[place + 1] == _APP1 and data[place + 4 : place + 10] == b"Exif\0\0":
            exif = Image.Exif()
            try:
                exif.load(bytes(data[place + 4 : end]))
            except Exception:  # Pillow raises anything on damaged EXIF
                return 1
            return _known(exif.get(_ORIENTATION))
        place = end
    return 1


def _known(orientation: object) -> int:
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def transposes(orientation: int) -> bool:
    """Return True if an orientation exchanges height and width."""
    return orientation >= 5


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels [H, W, 3] to the way they are to be seen, [H, W, 3] or [W, H, 3]."""
    if orientation == 1:
        return image
    if transposes(orientation):
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def check_scans(data: Data) -> None:
    """Raise BadSample for a JPEG of so many scans that decoding would take minutes."""
    scans = bytes(data).count(bytes([0xFF, _START_OF_SCAN])) if data[:2] == b"\xff\xd8" else 0
    if scans > _MOST_SCANS:
        raise BadSample("too_large", f"a JPEG of {scans} scans, more than {_MOST_SCANS}")


def check_pixels(height: int, width: int, limit: int) -> None:
    """Raise BadSample if an image has more pixels than the limit."""
    if height * width > limit:
        raise BadSample("too_large", f"{width} x {height} pixels, more than vision.max_pixels={limit}")


def _check_tiles(image: Image.Image, limit: int) -> None:
    """Raise BadSample for a TIFF of larger tiles than the limit, whatever its own size: a whole one is decoded."""
    width, height = (getattr(image, "tag_v2", {}).get(tag, 1) for tag in _TILE)
    check_pixels(height, width, limit)


def _eight_bits(image: Image.Image) -> np.ndarray:
    """Return grey levels of more than 8 bits as uint8 [H, W].

    Pillow's readers give 16 bits in mode I too, and values in [0, 1] in mode F. Raises ValueError for values outside
    of these ranges: convert("RGB") would clip them without a warning.
    """
    values = np.asarray(image, np.float64)
    scale = 1 if image.mode == "F" else 65535
    if not (values.min() >= 0 and values.max() <= scale):
        raise ValueError(f"pixels of mode {image.mode} outside of 0 to {scale}")
    return np.rint(values * (255 / scale)).astype(np.uint8)


def _strip_rgb(image: Image.Image, inverted: bool) -> np.ndarray:
    """Return uint8 [H, W, 3], or grey levels uint8 [H, W, 1]; alpha is dropped, as in torchvision's loader."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _eight_bits(image)[:, :, None]
    if image.mode == "P":  # of a palette with transparency Pillow would warn, on the reader's screen
        image.info.pop("transparency", None)
    return np.asarray((ImageChops.invert(image) if inverted else image).convert("RGB"))


def _rgb(image: Image.Image) -> np.ndarray:
    """Return uint8 [H, W, 3]. Converted in strips, so that beside the image and the result little memory is needed."""
    image.load()
    # Pillow reads every CMYK JPEG as Adobe's, whose values are inverted.
    inverted = image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        pixels[top : top + rows] = _strip_rgb(strip, inverted)
    return pixels


def decode_other(data: Data, vision: VisionConfig = DEFAULTS) -> np.ndarray:
    """Decode by Pillow. Returns and raises the same as `decode`."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            check_pixels(image.height, image.width, vision.max_pixels)
            check_scans(data)
            _check_tiles(image, vision.max_pixels)
            pixels = _rgb(image)
            return turned(pixels, _orientation(image)) if vision.exif_orientation else pixels
    except BadSample:
        raise
    except UnidentifiedImageError:  # its text names an object of Python
        raise BadSample("decode", f"not decodable: {what_it_is(data)}") from None
    except Exception as error:  # codecs raise anything on damaged bytes
        raise BadSample("decode", f"not decodable: {_said(error)}") from error


def _said(error: Exception) -> str:
    """Return the codec's own words; "damaged" if there are none."""
    first = error.args[0] if error.args else ""
    text = first.decode("utf-8", "replace") if isinstance(first, bytes) else str(error)
    return text if any(map(str.isalpha, text)) else "damaged"


def _orientation(image: Image.Image) -> int:
    try:
        return _known(image.getexif().get(_ORIENTATION))
    except Exception:  # Pillow raises anything on damaged EXIF
        return 1


def decode(data: Data, vision: VisionConfig = DEFAULTS) -> np.ndarray:
    """Return uint8 RGB [H, W, 3] of an encoded image, turned as EXIF says if `vision.exif_orientation`.

    Raises BadSample if its header gives more than `vision.max_pixels`, or if it cannot be decoded.
    """
    try:
        check_pixels(*jpeg_size(data), vision.max_pixels)
        check_scans(data)
        image = simplejpeg.decode_jpeg(data)
    except ValueError:  # Pillow decides, as it did for the published results
        return decode_other(data, vision)
    return turned(image, jpeg_orientation(data)) if vision.exif_orientation else image


def _length(height: int, width: int) -> int:
    """Return pixels / 1000, rounded up."""
    return -(-width * height // 1000)


def decoded_pixels(data: Data) -> int:
    """Return pixels / 1000, rounded up, of a decoded image. Raises BadSample as `decode` does."""
    return _length(*decode(data).shape[:2])


def one_colour(data: Data) -> bool:
    """Return True if all pixels are equal. Raises BadSample as `decode` does."""
    image = decode(data)
    return bool((image == image[0, 0]).all())


def image_length(data: Data) -> int:
    """Return pixels / 1000, rounded up, from the header. Raises ValueError if it cannot be read."""
    try:
        return _length(*_size(data))
    except UnidentifiedImageError:
        raise ValueError(f"not decodable: {what_it_is(data)}") from None
    except Exception as error:  # codecs raise anything on damaged bytes
        raise ValueError(f"not decodable: {_said(error)}") from None


def _size(data: Data) -> tuple[int, int]:
    """Return (height, width) from the header."""
    if data[:2] == b"\xff\xd8":
        height, width, *_ = simplejpeg.decode_jpeg_header(data, strict=False)
    elif data[:4] == b"\x89PNG" and data[12:16] == b"IHDR":
        width, height = struct.unpack(">II", data[16:24])
    else:
        width, height = Image.open(io.BytesIO(data), formats=FORMATS).size
    return height, width
