"""Rules of the objective's own keys: `masks.*`, `decoder.*` and `loss.cls`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from configs.checks.divisors import divisors, listed
from configs.modality_config import ModalityConfig
from configs.schema import PretrainConfig


def unused(config: PretrainConfig) -> Iterator[str]:
    """Mistakes in keys that the chosen objective does not have."""
    if config.objective == "v2":
        return
    for name in ("masks", "decoder"):
        section = getattr(config, name)
        given = [field.name for field in fields(section) if getattr(section, field.name) is not None]
        for key in given:
            yield f"{name}.{key} is of data2vec 2.0: add objective=v2, or leave it out"
    if config.loss.cls:
        yield "loss.cls is of data2vec 2.0: add objective=v2, or leave it out"


def masks(config: ModalityConfig) -> Iterator[str]:
    """Mistakes for which a mask leaves nothing to see or nothing to predict, or its blocks cannot be drawn."""
    own = config.masks
    if own is None:
        return
    longest = config.vision.tokens if config.modality == "vision" else config.longest
    assert longest is not None
    seen, least = longest * (1 - own.fraction), 1 / longest
    if not 1 <= seen <= longest - 1 + 1e-9:
        missing = "see" if seen < 1 else "predict"
        yield (
            f"masks.fraction={own.fraction:g} leaves nothing to {missing} of {longest} tokens ({config.modality}): "
            f"give {least:.2g} to {1 - least:.2g}"
        )
    if config.modality == "text" and own.block > 1:
        yield f"masks.block={own.block}: masks of text are of single tokens: set masks.block=1"
    if config.modality == "vision" and own.block > config.vision.grid:
        grid = config.vision.grid
        yield f"masks.block={own.block} does not fit into the {grid} x {grid} patches: at most {grid}"
    if config.modality == "speech" and own.block > longest // 2:
        yield f"masks.block={own.block} is too long for clips of {longest} frames: at most {longest // 2}"


def decoder(config: ModalityConfig) -> Iterator[str]:
    """Mistakes in the sizes of the decoder."""
    own = config.decoder
    if own is None:
        return
    width = config.model.width
    common = [n for n in divisors(width) if own.width % n == 0]
    if own.groups not in common:
        yield (
            f"decoder.groups={own.groups} must divide model.width={width} and decoder.width={own.width}: "
            f"one of {listed(common)}"
        )
    if own.kernel % 2 == 0:
        yield f"decoder.kernel={own.kernel} must be odd: e.g. decoder.kernel={own.kernel + 1}"
