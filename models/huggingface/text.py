"""`Data2VecTextModel`: names, config.json and the tokenizer's files (Transformers' modeling_data2vec_text.py)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.modality_config import ModalityConfig
from configs.published import PUBLISHED
from configs.signals import FIRST_POSITION
from data_shards.batch import BOS, EOS, PAD
from models.huggingface.files import read_object
from models.huggingface.layout import BlockLayout, Layout, Size, check_post_norm, module, transformer_sizes

_TYPES, _POSITIONS = "embeddings.token_type_embeddings.weight", "embeddings.position_embeddings.weight"
_HEAD_BIAS = "lm_head.bias"
_OUTER = {
    "embedding.weight": "embeddings.word_embeddings.weight",
    "positions.weight": _POSITIONS,
    **module("norm_embeddings", "embeddings.LayerNorm"),
}
_BLOCK = BlockLayout(
    "encoder.layer",
    ("attention.self.query", "attention.self.key", "attention.self.value"),
    {
        "attention.proj": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "feed_forward.fc1": "intermediate.dense",
        "feed_forward.fc2": "output.dense",
        "norm2": "output.LayerNorm",
    },
)


def layout(config: ModalityConfig) -> Layout:
    """The layout of `Data2VecTextModel`. Raises ValueError unless the blocks are post-norm, its only form."""
    check_post_norm(config, "Data2VecTextModel")
    tokens = config.text.max_tokens + FIRST_POSITION
    sizes = transformer_sizes(config) | {
        "vocab_size": Size("text.vocab_size", config.text.vocab_size, 30522, resizes=True),
        "max_position_embeddings": Size("text.max_tokens", tokens, 512, lambda rows: rows - FIRST_POSITION, True),
    }
    return Layout("data2vec-text", "Data2VecTextModel", _OUTER, _BLOCK, sizes, _settings(config))


def _settings(config: ModalityConfig) -> dict[str, Any]:
    """The rest of config.json. Transformers' own defaults are BERT's, not RoBERTa's. Dropout is this run's."""
    return {
        "attention_probs_dropout_prob": config.model.attention_dropout,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.model.dropout,
        "layer_norm_eps": PUBLISHED["v1", "text"].norm_eps,
        "mask_token_id": config.text.vocab_size - 1,
        "pad_token_id": PAD,
        "type_vocab_size": 1,
    }


def beside_ours(config: ModalityConfig) -> dict[str, Tensor]:
    """Their weights that our model does not have, all zeros: the embedding of the one token type, and a head's bias.

    Transformers 5 initialises all of a language model's head but this bias, which it leaves as memory happens to be:
    the loss of `AutoModelForMaskedLM` became NaN. Models without that head report the bias as unexpected.
    """
    return {_TYPES: torch.zeros(1, config.model.width), _HEAD_BIAS: torch.zeros(config.text.vocab_size)}


def without_token_types(theirs: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Their weights, with the embedding of token type 0 added to the positions: it is added to every token too.

    Raises ValueError if the two do not fit together.
    """
    if _TYPES not in theirs or _POSITIONS not in theirs:
        return theirs
    types, positions = theirs[_TYPES], theirs[_POSITIONS].clone()
    fit = types.dim() == positions.dim() == 2 and len(types) > 0 and types.shape[1] == positions.shape[1]
    if not fit or not types.is_floating_point() or not positions.is_floating_point():
        raise ValueError(f"{folder}: {_TYPES} and {_POSITIONS} do not fit together: get the folder again")
    positions[FIRST_POSITION:] += types[0]
    return theirs | {_POSITIONS: positions}


def copy_tokenizer(source: Path, target: Path, config: ModalityConfig) -> None:
    """Copy the tokenizer's files, and record the longest text there. Raises ValueError if there is no vocab.json."""
    if not (source / "vocab.json").is_file():
        raise ValueError(f"{source} has no vocab.json: put there the files of `tokenizer` beside the shards")
    for file in sorted(source.iterdir()):
        shutil.copyfile(file, target / file.name)
    settings = target / "tokenizer_config.json"
    known = read_object(settings) if settings.is_file() else {}
    settings.write_text(json.dumps(known | {"model_max_length": config.text.max_tokens}, indent=2) + "\n", "utf-8")
