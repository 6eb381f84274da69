"""Published values, by objective and modality: the defaults of keys that are null."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from configs.schema_modalities import Modality

Objective = Literal["v1"]
"""`v1`: data2vec (Baevski et al. 2022, arXiv 2202.03555)."""
Normalisation = Literal["layer", "instance", "none"]
"""`layer`: over the channels of a token; `instance`: over the real tokens of a sample, for each channel."""
Averaged = Literal["all", "transformer", "blocks"]
Target = Literal["block", "ffn"]
Reduction = Literal["mean", "sqrt", "sum"]


@dataclass(frozen=True)
class Published:
    """The values that an objective was published with in one modality.

    Sources: arXiv 2202.03555 sections 3 and 4, and the authors' code (fairseq examples/data2vec; data2vec_vision).
    """

    norm: Literal["pre", "post"]
    norm_eps: float
    key_bias: bool
    """True if the projection to keys has a bias. It changes no attention weight."""
    dropout: float
    average: Averaged
    layers: int
    target: Target
    block_norm: Normalisation
    mean_norm: Normalisation
    beta: float
    reduction: Reduction


PUBLISHED: dict[tuple[Objective, Modality], Published] = {
    ("v1", "vision"): Published("pre", 1e-6, False, 0.0, "all", 6, "block", "layer", "layer", 2.0, "mean"),
    ("v1", "speech"): Published("post", 1e-5, True, 0.1, "transformer", 8, "ffn", "instance", "none", 0.0, "sqrt"),
    ("v1", "text"): Published("post", 1e-5, True, 0.1, "blocks", 10, "ffn", "layer", "none", 4.0, "sum"),
}
