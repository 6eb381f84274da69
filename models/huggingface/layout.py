"""How Transformers lays out a model of ours: its names, its sizes and the rest of its config.json."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from configs.modality_config import ModalityConfig


def module(ours: str, theirs: str) -> dict[str, str]:
    """Our name -> theirs of a module's weight and bias."""
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for kind in ("weight", "bias")}


@dataclass(frozen=True)
class Size:
    """A value of config.json that has to agree with our configuration."""

    key: str
    """Our key; "" where it is no choice."""
    value: Any
    """What it is in this configuration, in their terms."""
    default: Any
    """What Transformers takes where config.json leaves it out."""
    ours: Callable[[Any], Any] = lambda value: value
    """Their value -> our key's."""


@dataclass(frozen=True)
class BlockLayout:
    """Their names within a Transformer block."""

    path: str
    """Their list of blocks."""
    projections: tuple[str, str, str]
    """Their modules of query, key and value, one fused projection here."""
    modules: dict[str, str]
    """Our module -> theirs, with weight and bias."""
    biases: str = "qkv"
    """Which of the projections have a bias."""
    vectors: dict[str, str] = field(default_factory=dict)
    """Our parameter -> theirs."""

    def names(self) -> dict[str, str]:
        """Our name -> theirs within a block, of all but the fused projection's weight."""
        letters = zip("qkv", self.projections, strict=True)
        biases = {f"attention.qkv.{x}_bias": f"{their}.bias" for x, their in letters if x in self.biases}
        pairs = [module(ours, theirs) for ours, theirs in self.modules.items()]
        return {ours: theirs for pair in pairs for ours, theirs in pair.items()} | biases | self.vectors


@dataclass(frozen=True)
class Layout:
    """A Transformers model that holds the weights of one of our networks."""

    model_type: str
    """As in config.json: data2vec-vision, data2vec-audio, data2vec-text."""
    model_class: str
    outer: dict[str, str]
    """Our name -> theirs, outside the blocks."""
    block: BlockLayout
    sizes: dict[str, Size]
    settings: dict[str, Any]
    """The rest of config.json."""
    optional: str = ""
    """Our parameter that a folder may lack."""

    @property
    def prefix(self) -> str:
        """What task models put before every name."""
        return self.model_type.replace("-", "_") + "."

    def names(self, layers: int) -> dict[str, str]:
        """Our name -> theirs, of all but the fused projections' weights."""
        inner = self.block.names()
        return self.outer | {
            f"encoder.blocks.{i}.{ours}": f"{self.block.path}.{i}.{theirs}"
            for i in range(layers)
            for ours, theirs in inner.items()
        }

    def fused(self, layers: int) -> dict[str, list[str]]:
        """Our fused projection's weight -> theirs of query, key and value."""
        return {
            f"encoder.blocks.{i}.attention.qkv.weight": [
                f"{self.block.path}.{i}.{theirs}.weight" for theirs in self.block.projections
            ]
            for i in range(layers)
        }

    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        sizes = {name: size.value for name, size in self.sizes.items()}
        return {"architectures": [self.model_class], "model_type": self.model_type} | sizes | self.settings


def transformer_sizes(config: ModalityConfig) -> dict[str, Size]:
    """The sizes that all three have."""
    model = config.model
    return {
        "hidden_size": Size("model.width", model.width, 768),
        "num_hidden_layers": Size("model.layers", model.layers, 12),
        "num_attention_heads": Size("model.heads", model.heads, 12),
        "intermediate_size": Size("model.ffn", model.ffn, 3072),
    }


def check_post_norm(config: ModalityConfig, model_class: str) -> None:
    """ValueError unless the blocks normalise after their sums, which is all that `model_class` can."""
    if config.model.norm not in ("post", "deep"):
        raise ValueError(
            f"model.norm={config.model.norm}: Transformers' {model_class} normalises after the sums; it holds what was "
            "trained with model.norm=post or deep (a mixture's own with mixture.blocks=separate)"
        )
