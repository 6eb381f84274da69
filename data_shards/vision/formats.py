"""Formats of image files: those that are read, and the names of others, by their first bytes."""

from __future__ import annotations

import re

from PIL import Image

from data_shards.shards.tar import Data

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
"""Formats in which Pillow may read an image, whatever its name. Some of its other readers start programs."""

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "jpe", "jfif", "gif", "tif", "tiff", "ppm", "pgm", "avif")
"""Members that are read as images. The first one that is present is read."""

Image.init()  # FORMATS can only name formats that are registered
Image.MAX_IMAGE_PIXELS = None  # `vision.max_pixels` takes its place, in both directions

_OTHERS = [
    (rb"....ftyp(hei[cfmsx]|hevc|mif1|msf1)", "a HEIC image"),
    (rb"....ftyp", "a video"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL image"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (rb"8BPS", "a Photoshop image"),
    (rb"%PDF|%!PS", "a PDF or PostScript document"),
    (rb"(?i)\s*(<!doctype html|<html)", "a web page"),
    (rb"\s*(<\?xml|<svg)", "an SVG image, or other XML"),
    (rb"\s*[{\[]", "JSON"),
    (rb"\x1f\x8b|PK\x03\x04|\x28\xb5\x2f\xfd|BZh|\xfd7zXZ", "a compressed file"),
]
_OURS = {
    "jpg": rb"\xff\xd8", "png": rb"\x89PNG", "webp": rb"RIFF....WEBP", "bmp": rb"BM", "gif": rb"GIF8",
    "tif": rb"II\*\0|MM\0\*", "ppm": rb"P[1-6]\s", "avif": rb"....ftypavi[fs]",
}  # fmt: skip


def extension_of(data: Data) -> str:
    """Return the extension of the format that the first bytes show, "" if none that is read."""
    start = bytes(data[:64])
    return next((name for name, pattern in _OURS.items() if re.match(pattern, start, re.DOTALL)), "")


def what_it_is(data: Data) -> str:
    """Return words for bytes that are no image which can be read."""
    start = bytes(data[:64])
    if not start:
        return "0 bytes"
    if extension_of(start):
        return "damaged"
    for pattern, name in _OTHERS:
        if re.match(pattern, start, re.DOTALL):
            return f"{name}, which is not read; convert it to JPEG or PNG" if name.endswith("image") else name
    return "of no known format" if start.strip(b"\0") else "zeros"
