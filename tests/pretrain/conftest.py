"""What tests of probes share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.schema_commands import BuildConfig
from data_shards.making.build import build


def _noise_images(folder: Path, seed: int) -> str:
    """Labelled shards of noise images: class 0 is reddish, class 1 is bluish."""
    generator = np.random.default_rng(seed)
    for i in range(60):
        pixels = generator.integers(0, 120, (16, 16, 3), dtype=np.uint8)
        pixels[..., 2 * (i % 2)] += 130
        (folder / "images" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "images" / str(i % 2) / f"{i}.png")
    build(BuildConfig(source="imagefolder", input=str(folder / "images"), output=str(folder / "shards"), workers=1))
    return str(folder / "shards")


@pytest.fixture
def coloured_shards(tmp_path) -> str:
    """Labelled shards of noise images: class 0 is reddish, class 1 is bluish."""
    return _noise_images(tmp_path, 0)


@pytest.fixture
def held_out_shards(tmp_path) -> str:
    """Other images of the same classes, under the same keys."""
    return _noise_images(tmp_path / "held_out", 1)
