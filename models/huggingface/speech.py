"""`Data2VecAudioModel`: names, config.json and preprocessor_config.json (Transformers' modeling_data2vec_audio.py).

In a padded batch their positional convolutions let padding reach the real frames next to it; ours do so only with
`speech.leaky_positions`. Clips alone, or of one length, give the same either way.
"""

from __future__ import annotations

from typing import Any

from configs.modality_config import ModalityConfig
from configs.published import PUBLISHED
from configs.signals import CONV_KERNELS, CONV_STRIDES
from models.huggingface.layout import BlockLayout, Layout, Size, check_post_norm, module, transformer_sizes

_BLOCK = BlockLayout(
    "encoder.layers",
    ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    {
        "attention.proj": "attention.out_proj",
        "norm1": "layer_norm",
        "feed_forward.fc1": "feed_forward.intermediate_dense",
        "feed_forward.fc2": "feed_forward.output_dense",
        "norm2": "final_layer_norm",
    },
)


def layout(config: ModalityConfig) -> Layout:
    """The layout of `Data2VecAudioModel`. Raises ValueError unless the blocks are post-norm, its only form."""
    check_post_norm(config, "Data2VecAudioModel")
    return Layout(
        "data2vec-audio",
        "Data2VecAudioModel",
        _outer(config),
        _BLOCK,
        _sizes(config),
        _settings(config),
        "masking.vector" if config.masks is None else "",
    )


def _outer(config: ModalityConfig) -> dict[str, str]:
    names = {"masking.vector": "masked_spec_embed"} if config.masks is None else {}
    names |= {
        **module("projection.norm", "feature_projection.layer_norm"),
        **module("projection.linear", "feature_projection.projection"),
        **module("encoder.norm", "encoder.layer_norm"),
    }
    for i in range(len(CONV_KERNELS)):
        ours, theirs = f"feature_encoder.layers.{i}", f"feature_extractor.conv_layers.{i}"
        names |= {f"{ours}.conv.weight": f"{theirs}.conv.weight", **module(f"{ours}.norm", f"{theirs}.layer_norm")}
    for i in range(config.speech.position_layers):
        names |= module(f"positions.layers.{i}.conv", f"encoder.pos_conv_embed.layers.{i}.conv")
    return names


def _sizes(config: ModalityConfig) -> dict[str, Size]:
    speech, count = config.speech, len(CONV_KERNELS)
    return transformer_sizes(config) | {
        "conv_dim": Size("speech.conv_width", [speech.conv_width] * count, [512] * count, lambda widths: widths[0]),
        "conv_kernel": Size("", list(CONV_KERNELS), list(CONV_KERNELS)),
        "conv_stride": Size("", list(CONV_STRIDES), list(CONV_STRIDES)),
        "conv_bias": Size("", False, False),
        "num_conv_pos_embeddings": Size("speech.position_layers", speech.position_layers, 5),  # not their kernel
        "conv_pos_kernel_size": Size("speech.position_kernel", speech.position_kernel, 19),
        "num_conv_pos_embedding_groups": Size("speech.position_groups", speech.position_groups, 16),
    }


def _settings(config: ModalityConfig) -> dict[str, Any]:
    """The rest of config.json. Dropout is this run's, since Transformers' own defaults add some."""
    return {
        "activation_dropout": 0.0,
        "attention_dropout": config.model.attention_dropout,
        "feat_extract_activation": "gelu",
        "feat_extract_norm": "layer",
        "feat_proj_dropout": 0.0,
        "hidden_act": "gelu",
        "hidden_dropout": config.model.dropout,
        "layer_norm_eps": PUBLISHED["v1", "speech"].norm_eps,
        "layerdrop": config.model.layer_drop,
        "mask_time_length": 10,
        # Used in training mode only. At 0 there is no place for a mask vector, which data2vec 2.0 does not have.
        "mask_time_prob": 0.05 if config.masks is None else 0.0,
    }


def preprocessor(config: ModalityConfig) -> dict[str, Any]:
    """The content of preprocessor_config.json: zero mean and unit variance for each clip."""
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "do_normalize": True,
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
        "sampling_rate": config.speech.sample_rate,
    }
