"""What tests of probes share."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from configs.schema_commands import BuildConfig
from data_shards.making.build import build


@pytest.fixture
def coloured_shards(tmp_path) -> str:
    """Labelled shards of noise images: class 0 is reddish, class 1 is bluish."""
    generator = np.random.default_rng(0)
    for i in range(60):
        pixels = generator.integers(0, 120, (16, 16, 3), dtype=np.uint8)
        pixels[..., 2 * (i % 2)] += 130
        (tmp_path / "images" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / str(i % 2) / f"{i}.png")
    build(BuildConfig(source="imagefolder", input=str(tmp_path / "images"), output=str(tmp_path / "shards"), workers=1))
    return str(tmp_path / "shards")
