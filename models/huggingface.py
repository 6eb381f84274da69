"""Our weights as a Hugging Face `Data2VecVisionModel` folder, and back.

Names: data2vec.md section 11. The regression head has no place there and is left out; a folder without a mask vector
(the published ones) leaves ours as initialised.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from configs.schema import PretrainConfig
from models.transformer import LAYER_NORM_EPS

_PREFIX = "data2vec_vision."
_SHARED_TABLE = "encoder.relative_position_bias.relative_position_bias_table"


def save_pretrained(folder: str | Path, student_state: dict[str, Tensor], config: PretrainConfig) -> None:
    """Write model.safetensors, config.json and preprocessor_config.json; names as in `Data2Vec.student`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in to_huggingface(student_state).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    _write_json(folder / "config.json", model_config(config) | {"dtype": dtype})
    _write_json(folder / "preprocessor_config.json", _preprocessor(config))


def load_pretrained(folder: str | Path, config: PretrainConfig) -> dict[str, Tensor]:
    """A Hugging Face folder -> weights named as in `Data2Vec.student`, without head (and mask vector if it has none).

    ValueError where the folder is not a data2vec vision model, is of another size than the configuration says, or
    lacks weights.
    """
    folder = Path(folder)
    _check_config(folder, config)
    theirs = {name.removeprefix(_PREFIX): tensor for name, tensor in _read_weights(folder).items()}
    if _SHARED_TABLE not in theirs and any("relative_position_bias_table" in name for name in theirs):
        raise ValueError(
            f"{folder} has a relative position table in every block (a fine-tuned model); "
            "this one shares a single table: start from a pre-trained folder"
        )
    return _from_huggingface(theirs, folder, config)


def to_huggingface(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names -> Hugging Face's; the fused projection is cut into query, key and value."""
    layers = sum(name.endswith("qkv.weight") for name in state)
    theirs = {their: state[our] for our, their in _names(layers, "encoder.blocks.0.gamma1" in state).items()}
    for i in range(layers):
        target = f"encoder.layer.{i}.attention.attention"
        weights = state[f"encoder.blocks.{i}.attention.qkv.weight"].chunk(3)
        for part, weight in zip(("query", "key", "value"), weights, strict=True):
            theirs[f"{target}.{part}.weight"] = weight.clone()  # safetensors refuses tensors that share memory
    return theirs


def _from_huggingface(theirs: dict[str, Tensor], folder: Path, config: PretrainConfig) -> dict[str, Tensor]:
    names = _names(config.model.layers, config.model.layer_scale > 0)
    if "embeddings.mask_token" not in theirs:
        del names["tokens.mask"]
    parts = {
        f"encoder.blocks.{i}.attention.qkv.weight": [
            f"encoder.layer.{i}.attention.attention.{part}.weight" for part in ("query", "key", "value")
        ]
        for i in range(config.model.layers)
    }
    if config.model.layer_scale == 0 and "encoder.layer.0.lambda_1" in theirs:
        raise ValueError(f"{folder} has LayerScale, but model.layer_scale is 0: set it above 0, e.g. 1e-4")
    missing = sorted((set(names.values()) | {name for group in parts.values() for name in group}) - set(theirs))
    if missing:
        raise ValueError(f"{folder} lacks {len(missing)} weights, the first is {missing[0]}: is the file complete?")
    ours = {our: theirs[their] for our, their in names.items()}
    return ours | {our: torch.cat([theirs[their] for their in group]) for our, group in parts.items()}


def _names(layers: int, layer_scale: bool) -> dict[str, str]:
    """Our name -> theirs, for all but the fused projection."""
    names = {
        "tokens.cls": "embeddings.cls_token",
        "tokens.mask": "embeddings.mask_token",
        "patch_embedding.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embedding.bias": "embeddings.patch_embeddings.projection.bias",
        "positions.table": _SHARED_TABLE,
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }
    block = {
        "attention.qkv.q_bias": "attention.attention.query.bias",
        "attention.qkv.v_bias": "attention.attention.value.bias",
    }
    modules = {
        "norm1": "layernorm_before",
        "attention.proj": "attention.output.dense",
        "norm2": "layernorm_after",
        "feed_forward.fc1": "intermediate.dense",
        "feed_forward.fc2": "output.dense",
    }
    block |= {f"{our}.{kind}": f"{their}.{kind}" for our, their in modules.items() for kind in ("weight", "bias")}
    if layer_scale:
        block |= {"gamma1": "lambda_1", "gamma2": "lambda_2"}
    for i in range(layers):
        names |= {f"encoder.blocks.{i}.{our}": f"encoder.layer.{i}.{their}" for our, their in block.items()}
    return names


def model_config(config: PretrainConfig) -> dict:
    """The config.json of our model; dropout rates are left to the fine-tuner."""
    return {
        "architectures": ["Data2VecVisionModel"],
        "model_type": "data2vec-vision",
        **_sizes(config),
        "hidden_act": "gelu",
        "layer_norm_eps": LAYER_NORM_EPS,  # the published config.json says 1e-12, training used 1e-6
        "layer_scale_init_value": config.model.layer_scale,
        "num_channels": 3,
        "use_absolute_position_embeddings": False,
        "use_mask_token": True,
        "use_mean_pooling": False,  # True would leave the final norm out
        "use_relative_position_bias": False,
        "use_shared_relative_position_bias": True,
    }


def _sizes(config: PretrainConfig) -> dict[str, int]:
    return {
        "hidden_size": config.model.width,
        "num_hidden_layers": config.model.layers,
        "num_attention_heads": config.model.heads,
        "intermediate_size": config.model.ffn,
        "image_size": config.vision.image_size,
        "patch_size": config.vision.patch_size,
    }


_KEYS = {  # our key, and the value of Data2VecVisionConfig where a config.json leaves the name out
    "hidden_size": ("model.width", 768),
    "num_hidden_layers": ("model.layers", 12),
    "num_attention_heads": ("model.heads", 12),
    "intermediate_size": ("model.ffn", 3072),
    "image_size": ("vision.image_size", 224),
    "patch_size": ("vision.patch_size", 16),
}


def _preprocessor(config: PretrainConfig) -> dict:
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


def _check_config(folder: Path, config: PretrainConfig) -> None:
    """ValueError unless config.json describes a data2vec vision model of our sizes."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give a Hugging Face folder with config.json and weights")
    theirs = json.loads(path.read_text())
    if theirs.get("model_type") != "data2vec-vision":
        raise ValueError(f"{path} describes a {theirs.get('model_type')!r} model, not 'data2vec-vision'")
    for name, ours in _sizes(config).items():
        key, default = _KEYS[name]
        value = theirs.get(name, default)
        if value != ours:
            raise ValueError(
                f"{path}: {name} is {value}, but {key} is {ours}: "
                f"choose the model= (tiny, base, large, huge) of that size, or set {key}={value}"
            )


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder: one safetensors file, several with an index, or pytorch_model.bin."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return load_file(folder / "model.safetensors")
    if index.is_file():
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        absent = [file for file in files if not (folder / file).is_file()]
        if absent:
            raise ValueError(f"{index} names {absent[0]}, which is not there: copy all {len(files)} files")
        return {name: tensor for file in files for name, tensor in load_file(folder / file).items()}
    if (folder / "pytorch_model.bin").is_file():
        return torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    raise ValueError(f"{folder} has no weights: expected model.safetensors, its index, or pytorch_model.bin")


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
