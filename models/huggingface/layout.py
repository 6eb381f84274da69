"""A Transformers model that holds our weights: its names, its sizes and the rest of its config.json."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from configs.modality_config import ModalityConfig


def module(ours: str, theirs: str) -> dict[str, str]:
    """Names of a module's weight and bias, ours -> theirs."""
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for kind in ("weight", "bias")}


@dataclass(frozen=True)
class Size:
    """A value of config.json that must agree with our configuration."""

    key: str
    """Our key; "" if ours is a constant."""
    value: Any
    """Our configuration's value, in their terms."""
    default: Any
    """Transformers' value if config.json has none."""
    ours: Callable[[Any], Any] = lambda value: value
    """Function from their value to our key's."""
    resizes: bool = False
    """True if weights of another value can be made to fit: the number of positions or of types."""


@dataclass(frozen=True)
class BlockLayout:
    """Names within a Transformer block of theirs."""

    path: str
    """Name of their list of blocks."""
    projections: tuple[str, str, str]
    """Their modules of query, key and value, which are one fused projection of ours."""
    modules: dict[str, str]
    """Our module -> theirs; each has a weight and a bias."""
    biases: str = "qkv"
    """Letters of the projections that have a bias."""
    vectors: dict[str, str] = field(default_factory=dict)
    """Our parameter -> theirs."""

    def names(self) -> dict[str, str]:
        """Our name -> theirs for every parameter of a block but the fused projection's weight."""
        letters = zip("qkv", self.projections, strict=True)
        biases = {f"attention.qkv.{x}_bias": f"{their}.bias" for x, their in letters if x in self.biases}
        pairs = [module(ours, theirs) for ours, theirs in self.modules.items()]
        return {ours: theirs for pair in pairs for ours, theirs in pair.items()} | biases | self.vectors


@dataclass(frozen=True)
class Layout:
    """A Transformers model that holds the weights of one of our networks."""

    model_type: str
    """`model_type` of config.json: data2vec-vision, data2vec-audio, data2vec-text."""
    model_class: str
    """Name of their class, which is `architectures` of config.json."""
    outer: dict[str, str]
    """Our name -> theirs, outside the blocks."""
    block: BlockLayout
    sizes: dict[str, Size]
    settings: dict[str, Any]
    """The rest of config.json."""
    optional: str = ""
    """Our parameter that a folder may lack; "" if there is none."""

    @property
    def prefix(self) -> str:
        """Prefix of every name in models with a task head."""
        return self.model_type.replace("-", "_") + "."

    def names(self, layers: int) -> dict[str, str]:
        """Our name -> theirs for every parameter but the fused projections' weights."""
        inner = self.block.names()
        return self.outer | {
            f"encoder.blocks.{i}.{ours}": f"{self.block.path}.{i}.{theirs}"
            for i in range(layers)
            for ours, theirs in inner.items()
        }

    def fused(self, layers: int) -> dict[str, list[str]]:
        """Our fused projection's weight -> their weights of query, key and value."""
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
    """The sizes that all three models have."""
    model = config.model
    return {
        "hidden_size": Size("model.width", model.width, 768),
        "num_hidden_layers": Size("model.layers", model.layers, 12),
        "num_attention_heads": Size("model.heads", model.heads, 12),
        "intermediate_size": Size("model.ffn", model.ffn, 3072),
    }


def check_post_norm(config: ModalityConfig, model_class: str) -> None:
    """Raise ValueError unless the blocks normalise after their sums: `model_class` has no other form."""
    if config.model.norm not in ("post", "deep"):
        raise ValueError(
            f"model.norm={config.model.norm}: Transformers' {model_class} normalises after the sums; it holds what was "
            "trained with model.norm=post or deep (a mixture's own with mixture.blocks=separate)"
        )
