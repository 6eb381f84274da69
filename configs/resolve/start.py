"""Sizes that follow from the weights of `init=DIR`, so that nobody types what the folder knows.

No weights are read here. Whether they fit is checked when they are loaded.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from configs.compose import from_yaml
from configs.keys import flat, plain, written
from configs.modality_config import TransformerConfig
from configs.schema_modalities import Modality
from configs.signals import FIRST_POSITION

CONTINUED = ("vision_continued", "speech_continued", "text_continued")
"""Recipes that go on from trained weights on data of one's own."""
_REGULARISED = ("dropout", "attention_dropout", "layer_drop", "drop_path", "activation_checkpointing", "compile")
"""Keys `model.*` that are no sizes: the recipe decides on them."""
_OBJECTIVES = {"vit": "v2", "data2vec-vision": "v1"}
_HUGGINGFACE = {
    "hidden_size": "model.width",
    "num_hidden_layers": "model.layers",
    "num_attention_heads": "model.heads",
    "intermediate_size": "model.ffn",
    "image_size": "vision.image_size",
    "patch_size": "vision.patch_size",
    "layer_scale_init_value": "model.layer_scale",
}


def sizes_of(init: str, modality: Modality) -> dict[str, str]:
    """Return the keys of a modality's model that the folder `init` knows, as a command line writes them.

    Nothing if the folder cannot be read: loading the weights then says why.
    """
    folder = Path(init)
    with suppress(ValueError, OSError):
        if (folder / "checkpoints").is_dir():
            return _of_run(folder, modality)
        return _of_huggingface(json.loads((folder / "config.json").read_text("utf-8")), modality)
    return {}


def _of_run(folder: Path, modality: Modality) -> dict[str, str]:
    config = from_yaml(folder / "config.yaml")
    if modality not in config.modalities:
        return {}
    values, own = flat(plain(config)), config.for_modality(modality)
    sizes = [field.name for field in fields(TransformerConfig) if field.name not in _REGULARISED]
    found: dict[str, Any] = {f"model.{name}": getattr(own.model, name) for name in sizes}
    shape = [f"{modality}.{key}" for key in own.own.shape_keys if key != "vocab_size"]  # the shards know the vocabulary
    found |= {"objective": config.objective} | {key: values[key] for key in shape}
    if config.objective == "v2":
        found |= {
            key: values[key] for key in values if key.startswith(("decoder.", "masks.")) and values[key] is not None
        }
    return {key: written(value) for key, value in found.items()}


def _of_huggingface(content: Any, modality: Modality) -> dict[str, str]:
    if not isinstance(content, dict):
        return {}
    found = {
        ours: content[theirs] for theirs, ours in _HUGGINGFACE.items() if type(content.get(theirs)) in (int, float)
    }
    found = {key: value for key, value in found.items() if key.startswith(("model.", f"{modality}."))}
    if modality == "text" and type(rows := content.get("max_position_embeddings")) is int:
        found["text.max_tokens"] = rows - FIRST_POSITION
    if modality == "vision":  # a ViT has fixed positions, as data2vec 2.0 here; data2vec's have relative ones
        found |= {"objective": objective} if (objective := _OBJECTIVES.get(str(content.get("model_type")))) else {}
    else:
        found.pop("model.layer_scale", None)
    return {key: written(value) for key, value in found.items()}
