"""Small data sets of every modality, built by `shards build` from real files: two classes each."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from configs.schema_commands import BuildConfig
from configs.schema_modalities import Modality
from data_shards.making.build import build

COUNT = 96


def build_shards(folder: Path, modality: Modality) -> Path:
    """Labelled files and their shards; returns the folder of the shards."""
    make = {"vision": _images, "speech": _recordings, "text": _texts}[modality]
    source = {"vision": "imagefolder", "speech": "audiofolder", "text": "jsonl"}[modality]
    more = {"vocab_size": 300, "max_tokens": 16, "label_field": "label"} if modality == "text" else {}
    files, output = folder / "input", folder / "shards"
    files.mkdir()
    make(files, np.random.default_rng(0))
    build(BuildConfig(source=source, input=str(files), output=str(output), workers=1, **more))
    return output


def _images(folder: Path, generator: np.random.Generator) -> None:
    """Horizontal and vertical stripes."""
    for number in range(COUNT):
        stripes = (np.arange(24) // (2 + number % 5) % 2 * 160)[:, None].repeat(24, 1)
        pixels = stripes.T if number % 2 else stripes
        image = (pixels[..., None] + generator.integers(0, 90, (24, 24, 3))).astype(np.uint8)
        path = folder / ("vertical" if number % 2 else "horizontal") / f"{number:03d}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)


def _recordings(folder: Path, generator: np.random.Generator) -> None:
    """Low and high tones in noise, of 0.2 to 0.6 seconds, at 8 kHz."""
    for number in range(COUNT):
        seconds = np.arange(int(generator.integers(1600, 4800))) / 8000
        tone = np.sin(2 * math.pi * (2500 if number % 2 else 400) * seconds)
        path = folder / ("high" if number % 2 else "low") / f"{number:03d}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, 0.3 * tone + 0.1 * generator.standard_normal(len(seconds)), 8000)


def _texts(folder: Path, generator: np.random.Generator) -> None:
    """Sentences from two small vocabularies, of 2 to 12 words: enough of them for 39 merges of a BPE."""
    summer, winter = "sunny seaside sandcastle saltwater lemonade", "icicle snowflake foggy frost chimney"
    words = (summer.split(), winter.split())
    lines = []
    for number in range(COUNT):
        some = generator.choice(words[number % 2], int(generator.integers(2, 13)))
        lines.append(f'{{"text": "{" ".join(some)}", "label": {number % 2}}}')
    (folder / "texts.jsonl").write_text("\n".join(lines) + "\n")
