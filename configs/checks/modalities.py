"""Rules of one modality: its sizes, its samples and their masks. `configs.checks.run` asks for them.

A modality without rules of its own passes.
"""

from __future__ import annotations

from collections.abc import Iterator

from configs.checks.divisors import divisors, listed
from configs.modality_config import ModalityConfig
from configs.schema_modalities import SpeechConfig, TextConfig, VisionConfig


def sizes(config: ModalityConfig) -> Iterator[str]:
    """Mistakes in the sizes of a modality's own modules."""
    match config.modality:
        case "vision":
            yield from grid(config.vision)
        case "speech":
            yield from _positions(config.speech, config.model.width)
        case _:  # no rules of its own
            pass


def samples(config: ModalityConfig) -> Iterator[str]:
    """Mistakes for which no samples or masks can be made, or the longest sample does not fit a micro-batch.

    `vision.mask` and `speech.mask` are data2vec's alone; data2vec 2.0 has `masks`.
    """
    match config.modality:
        case "vision":
            if config.masks is None and config.vision.image_size % config.vision.patch_size == 0:
                yield from _mask(config.vision)
            yield from _images(config.vision)
        case "speech":
            if config.masks is None:
                yield from _spans(config.speech)
            yield from _longest(config, config.speech.longest, "speech.max_seconds")
        case "text":
            yield from _tokens(config.text)
            yield from _longest(config, config.text.max_tokens, "text.max_tokens")
        # any other: no rules of its own


def grid(vision: VisionConfig) -> Iterator[str]:
    """Mistake for which the image is no whole number of patches."""
    size, patch = vision.image_size, vision.patch_size
    if size % patch:
        legal = listed([n for n in divisors(size) if n > 1])
        yield f"vision.patch_size={patch} must divide vision.image_size={size}: {legal}"


def _positions(speech: SpeechConfig, width: int) -> Iterator[str]:
    if speech.position_kernel % 2 == 0:
        near = speech.position_kernel + 1
        yield f"speech.position_kernel={speech.position_kernel} must be odd: e.g. speech.position_kernel={near}"
    if width % speech.position_groups:
        yield (
            f"speech.position_groups={speech.position_groups} must divide model.width={width}: "
            f"one of {listed(divisors(width))}"
        )


def _images(vision: VisionConfig) -> Iterator[str]:
    """Mistakes in crops and colours."""
    for key in ("crop_scale", "crop_ratio"):
        low, high = getattr(vision, key)
        if not 0 < low <= high:
            yield f"vision.{key}=[{low:g},{high:g}]: give a positive range, the smaller first"
    if vision.crop_scale[1] > 1:
        yield f"vision.crop_scale=[{vision.crop_scale[0]:g},{vision.crop_scale[1]:g}]: a crop has at most area 1"
    if min(vision.std) <= 0:
        yield f"vision.std={list(vision.std)}: standard deviations are positive"


def _mask(vision: VisionConfig) -> Iterator[str]:
    """Mistakes for which the mask does not fit the grid, or leaves the student nothing to see."""
    mask, tokens = vision.mask, vision.tokens
    patches = f"the {vision.grid} x {vision.grid} patches"
    if mask.patches >= tokens:
        yield f"vision.mask.patches={mask.patches} must be below {patches}: e.g. {max(1, round(0.61 * tokens))}"
    if mask.min_block > (vision.grid - 1) ** 2:
        legal = max(1, (vision.grid - 1) ** 2 // 4)
        yield f"vision.mask.min_block={mask.min_block} does not fit into {patches}: e.g. {legal}"
    if mask.min_block > min(mask.max_block, mask.patches):
        legal = min(mask.max_block, mask.patches)
        yield (
            f"vision.mask.min_block={mask.min_block} must be at most max_block={mask.max_block} and "
            f"patches={mask.patches}: up to {legal}"
        )


def _spans(speech: SpeechConfig) -> Iterator[str]:
    """Mistake for which the longest clip cannot be masked in part."""
    if speech.longest <= speech.mask.length + 1:
        seconds = (speech.mask.length + 2) / 50 + 0.01
        yield (
            f"speech.max_seconds={speech.max_seconds:g} is {speech.longest} frames, and a masked span has "
            f"speech.mask.length={speech.mask.length}: set speech.max_seconds={seconds:g} or more"
        )


def _tokens(text: TextConfig) -> Iterator[str]:
    mask = text.mask
    if mask.kind == "spans" and mask.length > text.max_tokens - 4:
        room = f"text.max_tokens={text.max_tokens}"
        yield f"text.mask.length={mask.length} leaves nothing of {room}: set text.mask.length=4"
    if mask.kind == "tokens" and mask.random + mask.keep >= 1:
        yield f"text.mask.random={mask.random:g} and text.mask.keep={mask.keep:g} leave no target: e.g. 0.1 and 0.1"


def _longest(config: ModalityConfig, tokens: int, key: str) -> Iterator[str]:
    budget = config.batch.micro_tokens
    if budget is not None and budget < tokens:
        yield (
            f"batch.micro_tokens={budget} does not hold one sample of {tokens} tokens ({key}): "
            f"set batch.micro_tokens={tokens} or more"
        )
