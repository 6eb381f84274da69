"""`Data2VecVisionModel` and `ViTModel`: names, config.json, preprocessor_config.json (Transformers' modeling files)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.modality_config import ModalityConfig
from configs.published import PUBLISHED
from models.huggingface.layout import BlockLayout, Layout, Size, module, transformer_sizes
from models.vision import sincos_positions

_TABLE = "encoder.relative_position_bias.relative_position_bias_table"
_BLOCK_TABLE = re.compile(r"encoder\.layer\.\d+\..*\.relative_position_bias_table")
_MODULES = {
    "norm1": "layernorm_before",
    "attention.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "feed_forward.fc1": "intermediate.dense",
    "feed_forward.fc2": "output.dense",
}
_MASK = "tokens.mask"
_FIXED = "embeddings.position_embeddings"
_OUTER = {
    "tokens.cls": "embeddings.cls_token",
    _MASK: "embeddings.mask_token",
    **module("patch_embedding", "embeddings.patch_embeddings.projection"),
    "positions.table": _TABLE,
    **module("norm", "layernorm"),
}


def layout(config: ModalityConfig) -> Layout:
    """The layout of `Data2VecVisionModel`, or with fixed positions of `ViTModel`.

    Raises ValueError unless the blocks are pre-norm, their only form.
    """
    if config.vision.positions == "sincos":
        return _vit(config)
    if config.model.norm != "pre":
        raise ValueError(
            f"model.norm={config.model.norm}: Transformers' Data2VecVisionModel normalises before the branches; "
            "it holds what was trained with model.norm=pre"
        )
    projections = ("attention.attention.query", "attention.attention.key", "attention.attention.value")
    scaled = {"gamma1": "lambda_1", "gamma2": "lambda_2"} if config.model.layer_scale > 0 else {}
    sizes = transformer_sizes(config) | {
        "image_size": Size("vision.image_size", config.vision.image_size, 224, resizes=True),
        "patch_size": Size("vision.patch_size", config.vision.patch_size, 16),
    }
    block = BlockLayout("encoder.layer", projections, _MODULES, "qv", scaled)
    outer = {ours: theirs for ours, theirs in _OUTER.items() if ours != _MASK or config.masks is None}
    optional = _MASK if config.masks is None else ""
    return Layout("data2vec-vision", "Data2VecVisionModel", outer, block, sizes, _settings(config), optional)


def _vit(config: ModalityConfig) -> Layout:
    """The layout of `ViTModel`. Raises ValueError unless the blocks are pre-norm without LayerScale, its only form."""
    model = config.model
    for key, value, wanted in (("norm", model.norm, "pre"), ("layer_scale", model.layer_scale, 0)):
        if value != wanted:
            raise ValueError(
                f"model.{key}={value}: with vision.positions=sincos the model is Transformers' ViTModel, which holds "
                f"what was trained with model.{key}={wanted}"
            )
    outer = {
        "tokens.cls": "embeddings.cls_token",
        **module("patch_embedding", "embeddings.patch_embeddings.projection"),
        **module("norm", "layernorm"),
    }
    modules = {
        "attention.proj": "attention.o_proj",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "feed_forward.fc1": "mlp.fc1",
        "feed_forward.fc2": "mlp.fc2",
    }
    block = BlockLayout("layers", ("attention.q_proj", "attention.k_proj", "attention.v_proj"), modules, "qv")
    sizes = transformer_sizes(config) | {
        "image_size": Size("vision.image_size", config.vision.image_size, 224),
        "patch_size": Size("vision.patch_size", config.vision.patch_size, 16),
    }
    settings = {"hidden_act": "gelu", "layer_norm_eps": config.published.norm_eps, "num_channels": 3, "qkv_bias": True}
    return Layout("vit", "ViTModel", outer, block, sizes, settings)


def beside_ours(config: ModalityConfig) -> dict[str, Tensor]:
    """Weights of `ViTModel` that our model does not have: the fixed positions, CLS's zeros in front, and key biases.

    A key's bias changes no attention weight. Nothing for `Data2VecVisionModel`.
    """
    if config.vision.positions == "relative":
        return {}
    width = config.model.width
    positions = torch.cat([torch.zeros(1, width), sincos_positions(config.vision.grid, width)])
    biases = {f"layers.{i}.attention.k_proj.bias": torch.zeros(width) for i in range(config.model.layers)}
    return {_FIXED: positions[None], **biases}


def _settings(config: ModalityConfig) -> dict[str, Any]:
    """The rest of config.json. Dropout rates are left to the fine-tuner."""
    return {
        "hidden_act": "gelu",
        "layer_norm_eps": PUBLISHED[
            "v1", "vision"
        ].norm_eps,  # the published config.json says 1e-12, training used 1e-6
        "layer_scale_init_value": config.model.layer_scale,
        "num_channels": 3,
        "use_absolute_position_embeddings": False,
        "use_mask_token": config.masks is None,  # data2vec 2.0 has no mask vector
        "use_mean_pooling": False,  # True would leave the final norm out
        "use_relative_position_bias": False,
        "use_shared_relative_position_bias": True,
    }


def preprocessor(config: ModalityConfig) -> dict[str, Any]:
    """The content of preprocessor_config.json."""
    size = {"height": config.vision.image_size, "width": config.vision.image_size}
    return {
        "image_processor_type": "BeitImageProcessor",
        "do_resize": True,
        "size": size,
        "resample": 3,  # bicubic
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(config.vision.mean),
        "image_std": list(config.vision.std),
    }


def check_weights(theirs: dict[str, Tensor], folder: Path, config: ModalityConfig) -> None:
    """Raise ValueError if a folder's weights (prefix removed) have no place in a model of this configuration."""
    if config.vision.positions == "sincos" and _FIXED in theirs:
        positions, ours = theirs[_FIXED], beside_ours(config)[_FIXED]
        if positions.shape != ours.shape or not torch.allclose(positions.float(), ours, atol=1e-4):
            raise ValueError(f"{folder} has other positions than vision.positions=sincos: it cannot be taken over")
    if _TABLE not in theirs and any(_BLOCK_TABLE.fullmatch(name) for name in theirs):
        raise ValueError(
            f"{folder} has a relative position table in every block (a fine-tuned model); "
            "this one shares a single table: start from a pre-trained folder"
        )
    if config.model.layer_scale == 0 and "encoder.layer.0.lambda_1" in theirs:
        raise ValueError(f"{folder} has LayerScale, but model.layer_scale is 0: set it above 0, e.g. 1e-4")
