"""Published values, by objective and modality: the defaults of keys that are null."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from configs.schema_modalities import Modality

Objective = Literal["v1", "v2"]
"""`v1`: data2vec (Baevski et al. 2022, arXiv 2202.03555). `v2`: data2vec 2.0 (Baevski et al. 2022, arXiv
2212.07525)."""
Normalisation = Literal["layer", "instance", "none"]
"""`layer`: over the channels of a token; `instance`: over the real tokens of a sample, for each channel."""
Averaged = Literal["all", "transformer", "blocks"]
Target = Literal["block", "ffn"]
Reduction = Literal["mean", "sqrt", "sum"]
BASE_LAYERS, BASE_WIDTH = 12, 768
"""Blocks and width of the Base models, for which the values below were published."""


@dataclass(frozen=True)
class MultiMasks:
    """The keys `masks.*` of `MasksConfig`, none of them null."""

    count: int
    fraction: float
    adjust: float
    block: int

    def covers_hidden(self, image: bool) -> bool:
        """Return True if the blocks cover what is hidden: those of clips. Of an image they cover what is seen."""
        return self.block > 1 and not image

    def hidden(self, tokens: int, image: bool) -> int:
        """Return the number of a sample's `tokens` that a mask hides: one at least, and not all.

        What the blocks cover is rounded down. Without blocks that is what is seen.
        """
        if self.covers_hidden(image):
            return min(max(int(tokens * self.fraction + _ROUNDING), 1), tokens - 1)
        return tokens - min(max(int(tokens * (1 - self.fraction) + _ROUNDING), 1), tokens - 1)


_ROUNDING = 1e-9
"""A product such as 100 * (1 - 0.9) is not to lose a token to the last bit of a float."""


@dataclass(frozen=True)
class DecoderSizes:
    """The keys `decoder.*` of `DecoderConfig`, none of them null."""

    layers: int
    width: int
    kernel: int
    groups: int
    residual: bool
    hidden: int
    """Channels of the hidden layer; 0: none."""
    dropout: float


@dataclass(frozen=True)
class Published:
    """The values that an objective was published with in one modality.

    Sources: arXiv 2202.03555 sections 3 and 4, and the authors' code (fairseq examples/data2vec; data2vec_vision). v2:
    fairseq examples/data2vec, config/v2, for all but the place of the norms, which is v1's.
    """

    norm: Literal["pre", "post"]
    norm_eps: float
    key_bias: bool
    """True if the projection to keys has a bias. It changes no attention weight."""
    dropout: float
    average: Averaged
    layers: int
    """K, of `BASE_LAYERS` blocks."""
    target: Target
    block_norm: Normalisation
    mean_norm: Normalisation
    beta: float
    reduction: Reduction
    lr: float = 5e-4
    """Peak learning rate at `batch` samples and `BASE_WIDTH` channels."""
    batch: int = 256
    masks: MultiMasks | None = None
    decoder: DecoderSizes | None = None
    cls: float = 0.0


_RECIPES: dict[tuple[Objective, Modality, str], str] = {
    ("v1", "vision", "base"): "vision_base_imagenet",
    ("v1", "vision", "large"): "vision_large_imagenet_phase1",
    ("v1", "speech", "base"): "speech_base_librispeech",
    ("v1", "text", "base"): "text_base_books_wikipedia",
    ("v2", "vision", "base"): "vision_base_imagenet_v2",
    ("v2", "vision", "large"): "vision_large_imagenet_v2",
    ("v2", "vision", "huge"): "vision_huge_imagenet_v2",
    ("v2", "speech", "base"): "speech_base_librispeech_v2",
    ("v2", "speech", "large"): "speech_large_librilight_v2",
    ("v2", "text", "base"): "text_base_books_wikipedia_v2",
    ("v2", "text", "large"): "text_large_v2",
}
"""Recipe of a published model, by objective, modality and size."""
_OTHER_RECIPES = ("vision_large_imagenet_phase2", "speech_base_audioset")
"""Recipes of further published models of the same sizes."""


def published_recipe(recipe: str, objective: Objective, modalities: tuple[Modality, ...], size: str) -> str | None:
    """Return the published recipe to compare a run with: its own, or else that of objective, modality and size, or
    Base's.

    None for a mixture: none was published.
    """
    own = [name for (of, *_), name in _RECIPES.items() if of == objective]
    if recipe in own or (objective == "v1" and recipe in _OTHER_RECIPES):
        return recipe
    modality, *others = modalities
    return None if others else _RECIPES.get((objective, modality, size), _RECIPES[objective, modality, "base"])


_V1: dict[Modality, Published] = {
    "vision": Published("pre", 1e-6, False, 0.0, "all", 6, "block", "layer", "layer", 2.0, "mean", 2e-3, 2048),
    "speech": Published("post", 1e-5, True, 0.1, "transformer", 8, "ffn", "instance", "none", 0.0, "sqrt", 5e-4, 320),
    "text": Published("post", 1e-5, True, 0.1, "blocks", 10, "ffn", "layer", "none", 4.0, "sum", 2e-4, 256),
}
_V2: dict[Modality, Published] = {
    "vision": replace(
        _V1["vision"], layers=10, target="ffn", block_norm="instance", beta=0.0, reduction="sqrt", lr=1e-3, batch=256,
        masks=MultiMasks(16, 0.8, 0.07, 3), decoder=DecoderSizes(6, 768, 3, 16, True, 0, 0.0),
        # The code multiplies 0.01 by the masked count of a GPU and sums over its rows, 256 of them: their mean, times
        # 2.56.
        cls=2.56,
    ),
    "speech": replace(
        _V1["speech"], lr=7.5e-4, batch=32,
        masks=MultiMasks(8, 0.5, 0.05, 5), decoder=DecoderSizes(4, 384, 7, 16, True, 0, 0.1),
    ),
    "text": replace(
        _V1["text"], layers=12, block_norm="instance", beta=0.0, lr=2e-4, batch=64,
        masks=MultiMasks(8, 0.48, 0.0, 1), decoder=DecoderSizes(5, 768, 9, 1, False, 1536, 0.1),
    ),
}  # fmt: skip
PUBLISHED: dict[tuple[Objective, Modality], Published] = {
    **{("v1", modality): published for modality, published in _V1.items()},
    **{("v2", modality): published for modality, published in _V2.items()},
}
"""v2's batch is of samples, each with `masks.count` masks; speech: 8 GPUs of 62.5 s, clips of about 16 s."""
