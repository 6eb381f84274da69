"""A neutral recipe's model, batch and size of samples, from the amount of data and the device: one rule a key.

docs/recipes.md gives the rules' reasons and sources. What the user types wins over all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from configs.checks.divisors import divisors
from configs.modality_config import ModalityConfig
from configs.published import PUBLISHED
from configs.schema_modalities import Modality

NEUTRAL = ("vision", "speech", "text")
"""Recipes for data of one's own, one for each modality of that name."""
_MODELS = (("base", 300_000), ("medium", 30_000), ("small", 0))
"""Sizes on a GPU, with the fewest samples of each."""
_SIDES = (32, 48, 64, 96, 128, 160, 224)
"""Sides of the square crop in pixels, of which the largest one that most images have is taken."""
_EPOCHS, _FEWEST_STEPS, _MOST_STEPS = 100, 1000, 100_000
EPOCH_STEPS = 10
"""Steps of an epoch, below which most of what a step sees is what the step before has seen."""
_LARGE = 100_000
"""Samples from which the loader's settings for large data sets are taken."""
_BYTES = 34
"""Bytes of activations of a token for each block and channel in 16 bits (Korthikanti et al. 2022, arXiv 2205.05198)."""
_DECODER_BYTES = 8
"""Bytes of activations of a token for each convolution and channel of data2vec 2.0's decoder, in 16 bits."""
_ON_CPU = {"vision": ("vision.image_size", 64), "speech": ("speech.max_seconds", 4), "text": ("text.max_tokens", 128)}
"""Largest samples of a trial on a CPU."""


@dataclass(frozen=True)
class DataSize:
    """The size of a data set, as far as the rules ask for it."""

    samples: int
    side: int = 0
    """Side in pixels of a square with as many pixels as the median image; 0 for other samples."""


@dataclass(frozen=True)
class Device:
    """Devices of the ranks, and the cores beside them."""

    ranks: int
    memory_gib: float = 0.0
    """Memory of the smallest GPU; 0 without GPUs."""
    cores: int = 1
    """Cores of a rank."""


def scale(modality: Modality, data: DataSize, device: Device, batch: int | None = None) -> dict[str, str | int]:
    """Return size of model, samples and batch, and length of the run. A CPU is for trials, and gets the least of each.

    batch: the user's.
    """
    batch = batch or _batch(modality, data, device)
    found: dict[str, str | int] = {"model": "tiny", "train.steps": _FEWEST_STEPS, "batch.global": batch}
    key, most = _ON_CPU[modality]
    if device.memory_gib:
        found["model"] = next(name for name, least in _MODELS if data.samples >= least)
        found["train.steps"] = max(_FEWEST_STEPS, min(_MOST_STEPS, _EPOCHS * data.samples // batch))
        found["data"] = "large" if data.samples >= _LARGE else "small"
        found["data.workers"] = max(1, min(8, device.cores - 1))
    elif modality != "vision":
        found[key] = most
    if modality == "vision":
        found[key] = _side(data.side, _SIDES[-1] if device.memory_gib else most)
    return found


def micro(config: ModalityConfig, device: Device) -> dict[str, int]:
    """Return the micro-batch whose activations take half of a GPU's memory; on a CPU at most 32 samples.

    Each frame of speech counts twice: the published feature encoder holds about as much as twelve Base blocks.
    """
    share, own = max(1, config.batch.global_ // device.ranks), config.model
    if not device.memory_gib:
        return {"batch.micro": max(n for n in divisors(share) if n <= 32)}
    token = _BYTES * own.width * own.layers * (2 if config.modality == "speech" else 1)
    tokens = int(device.memory_gib * 2**30 / 2 / (token * _passes(config, token)))
    if config.longest is not None:
        return {"batch.micro": share, "batch.micro_tokens": max(tokens, config.longest)}
    return {"batch.micro": max(n for n in divisors(share) if n <= max(1, tokens // config.vision.tokens))}


def _passes(config: ModalityConfig, token: int) -> float:
    """Activations of a sample by those of one pass over all its tokens, of `token` bytes each.

    data2vec 2.0 keeps, for each mask, the blocks' of the tokens that are seen, and the decoder's of all.
    """
    if config.masks is None or config.decoder is None:
        return 1
    decoder = _DECODER_BYTES * config.decoder.layers * config.decoder.width
    return config.masks.count * (1 - config.masks.fraction + decoder / token)


def _batch(modality: Modality, data: DataSize, device: Device) -> int:
    """The power of two nearest to the square root of the samples, from 64 to the published batch (speech from 32).

    It is the smallest one on a CPU, at most a tenth of the data, and a multiple of the ranks.
    """
    least = 32 if modality == "speech" else 64
    most = PUBLISHED["v1", modality].batch if device.memory_gib else least
    power = math.log2(max(1, data.samples))
    tenth = math.log2(max(1, data.samples // EPOCH_STEPS))
    batch = min(max(2 ** round(power / 2), least), most, 2 ** int(tenth))
    return max(1, batch // device.ranks) * device.ranks


def _side(median: int, most: int) -> int:
    """Side of the crop: at most that of the median image, and at most `most`."""
    return max([side for side in _SIDES if side <= min(median, most)], default=_SIDES[0])
