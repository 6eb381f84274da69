"""Decodes the worst legal inputs, each in a process that may take no more memory than the keys allow.

Prints a line `case<TAB>outcome` for each: `used` or `refused`, or the exception.
"""

from __future__ import annotations

import io
import os
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from configs.schema_modalities import SpeechConfig, VisionConfig
from data_shards.shards.bad_sample import BadSample
from data_shards.speech.audio import flac
from data_shards.speech.samples import decode as decode_clip
from data_shards.text.samples import Texts
from data_shards.text.tokens import tokens_npy
from data_shards.vision.samples import CROP_DRAWS, augment, centre_crop
from tests.data_shards.shard_tools import small_config
from tests.data_shards.speech.recorded import encoded

PIXELS, SECONDS = 4_000_000, 300
VISION, SPEECH = VisionConfig(max_pixels=PIXELS), SpeechConfig(max_recording_seconds=SECONDS)
PER_PIXEL, PER_SAMPLE = 20, 6  # bytes, as the keys say
SLACK = 48 << 20  # blocks of a decoder, and what Python takes
CPU_S = 20


def image(mode: str, size: tuple[int, int], kind: str, **keys) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind, **keys)
    return buffer.getvalue()


def many_scans(count: int) -> bytes:
    """A progressive JPEG that goes over all its pixels so many times."""
    data = image("RGB", (2000, 2000), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + data[-2:]


def large_tile() -> bytes:
    """A TIFF of 100 x 100 pixels in one tile of 65536 x 32752."""
    content = zlib.compress(bytes(1000))
    tags = {256: 100, 257: 100, 258: 8, 259: 8, 262: 1, 277: 1, 322: 65536, 323: 32752, 324: 0, 325: len(content)}
    tags[324] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + content


IMAGES = {
    "thin JPEG": image("RGB", (65000, 2), "JPEG"),
    "wide PNG": image("L", (PIXELS, 1), "PNG"),
    "tall PNG": image("L", (1, PIXELS), "PNG"),
    "16 bits": image("I;16", (2000, 2000), "PNG"),
    "floats": image("F", (2000, 2000), "TIFF", compression="tiff_lzw"),
    "CMYK": image("CMYK", (2000, 2000), "JPEG"),
    "RGBA": image("RGBA", (2000, 2000), "WEBP", lossless=True),
    "GIF": image("P", (2000, 2000), "GIF"),
    "progressive": image("RGB", (2000, 2000), "JPEG", progressive=True),
    "90 scans": many_scans(80),
    "a million scans": many_scans(10**5),
    "large tile": large_tile(),
    "too large": image("L", (PIXELS + 1, 1), "PNG"),
}
SOUNDS = {
    "long": flac(np.zeros(SECONDS * 16000, np.int16)),
    "stereo": encoded(np.zeros((SECONDS * 24000, 2), "f4"), 24000, "FLAC"),
    "1 kHz": encoded(np.zeros(SECONDS * 1000, "f4"), 1000, subtype="PCM_U8"),
    "256 channels": encoded(np.zeros((100_000, 256), "f4"), 1000, subtype="PCM_U8"),
    "too long": flac(np.zeros(SECONDS * 16000 + 1, np.int16)),
}
TOKENS = tokens_npy([0, *[5] * 3_000_000, 2], 300)


def whole_image(data: bytes) -> None:
    augment(data, np.full(CROP_DRAWS + 1, 0.5), VISION)
    centre_crop(data, 224, VISION)


def text(data: bytes) -> None:
    Texts(small_config("", modality="text").for_modality("text")).load({"npy": data}, np.array([0.5]), 512)


CASES = {name: (whole_image, data, PER_PIXEL * PIXELS) for name, data in IMAGES.items()}
CASES |= {
    name: (lambda data: decode_clip(data, SPEECH, 500, 0.5), data, PER_SAMPLE * SECONDS * 16000)
    for name, data in SOUNDS.items()
}
CASES["text"] = (text, TOKENS, len(TOKENS))


def limit(memory: int) -> None:
    """Let this process take so many bytes more than it has now, and some seconds."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))


def outcome(name: str) -> str:
    use, data, memory = CASES[name]
    limit(memory + len(data) + SLACK)
    try:
        use(data)
    except BadSample as error:
        return f"refused: {error}"
    except BaseException as error:
        return repr(error)
    return "used"


def main() -> None:
    torch.set_num_threads(1)
    for name in CASES:
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.write(write, outcome(name).encode()[:4000])
            os._exit(0)
        os.close(write)
        os.waitpid(child, 0)
        print(name, os.read(read, 4000).decode() or "killed", sep="\t", flush=True)
        os.close(read)


if __name__ == "__main__":
    main()
