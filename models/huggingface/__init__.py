"""Our weights as a Hugging Face folder (`Data2VecVisionModel`, `Data2VecAudioModel`, `Data2VecTextModel`), and back.

Names: Transformers' modeling_data2vec_vision.py, _audio.py and _text.py. The regression head has no place there and is
left out. A folder without a mask vector (the published vision models) leaves ours as initialised; data2vec 2.0 has
none. DeepNorm's blocks become post-norm ones: LayerNorm(a x + f) = LayerNorm(x + f / a) up to LayerNorm's epsilon
(Base: 5e-6 of the hidden states' scale), so that the branches' outputs are divided by a.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from configs.modality_config import ModalityConfig
from models.huggingface import speech, text, vision
from models.huggingface.files import read_config, read_weights
from models.huggingface.layout import Layout
from models.layers.blocks import deep_norm_alpha

_DAMAGED = "no model of this kind, or damaged; get the folder again"
_BRANCH_OUTPUTS = ("attention.proj.weight", "attention.proj.bias", "feed_forward.fc2.weight", "feed_forward.fc2.bias")


def layout_of(config: ModalityConfig) -> Layout:
    """The Transformers model that holds the weights of this configuration. Raises ValueError if there is none."""
    match config.modality:
        case "vision":
            return vision.layout(config)
        case "speech":
            return speech.layout(config)
        case "text":
            return text.layout(config)
        case _:
            raise ValueError(f"Transformers has no data2vec model for modality={config.modality}")


def save_pretrained(
    folder: str | Path, student_state: dict[str, Tensor], config: ModalityConfig, tokenizer: Path | None = None
) -> None:
    """Write model.safetensors, config.json and what turns raw data into the model's inputs.

    student_state: named as in a `Data2Vec.student` of one modality. tokenizer: the folder of a text model's tokenizer;
    None leaves it out. ValueError where Transformers has no such model or the tokenizer's files are missing.
    """
    layout = layout_of(config)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.detach().cpu().contiguous() for name, tensor in to_huggingface(student_state, config).items()
    }
    dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    _write_json(folder / "config.json", layout.config() | {"dtype": dtype})
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    # safetensors lets only the owner read its files; others get the rights that the user's umask grants.
    (folder / "model.safetensors").chmod(stat.S_IMODE((folder / "config.json").stat().st_mode))
    match config.modality:
        case "vision":
            _write_json(folder / "preprocessor_config.json", vision.preprocessor(config))
        case "speech":
            _write_json(folder / "preprocessor_config.json", speech.preprocessor(config))
        case "text" if tokenizer is not None:
            text.copy_tokenizer(tokenizer, folder, config)


def load_pretrained(folder: str | Path, config: ModalityConfig) -> dict[str, Tensor]:
    """A Hugging Face folder -> weights named like those of `Data2Vec.student`.

    The head is missing, and so is the mask vector if the folder has none. Tables of positions and of types have the
    folder's own numbers of rows. Raises ValueError if the folder is not the
    data2vec model of this modality, has other sizes than the configuration, lacks weights or is damaged.
    """
    folder, layout = Path(folder), layout_of(config)
    _check_config(folder, layout)
    theirs = _without_prefix(read_weights(folder), folder, layout.prefix)
    match config.modality:
        case "vision":
            vision.check_weights(theirs, folder, config)
        case "text":
            theirs = text.without_token_types(theirs, folder)
    return _from_huggingface(theirs, folder, config)


def _without_prefix(theirs: dict[str, Tensor], folder: Path, prefix: str) -> dict[str, Tensor]:
    """The weights under the names of a model without a task head, whatever number of prefixes they have.

    Raises ValueError if two weights then have one name.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in theirs.items():
        short = name
        while short.startswith(prefix):
            short = short.removeprefix(prefix)
        if short in found:
            raise ValueError(f"{folder} has several weights called {short}, with and without {prefix}: keep one model")
        found[short] = tensor
    return found


def to_huggingface(state: dict[str, Tensor], config: ModalityConfig) -> dict[str, Tensor]:
    """Our names -> Hugging Face's; the fused projection is cut into query, key and value."""
    layout, layers = layout_of(config), config.model.layers
    state = _scaled_branches(state, 1 / _depth_scale(config))
    theirs = {their: state[our] for our, their in layout.names(layers).items()}
    for our, group in layout.fused(layers).items():
        # safetensors refuses tensors that share memory
        theirs |= {their: weight.clone() for their, weight in zip(group, state[our].chunk(3), strict=True)}
    match config.modality:
        case "text":
            return theirs | text.beside_ours(config)
        case "vision":
            return theirs | vision.beside_ours(config)
    return theirs


def _from_huggingface(theirs: dict[str, Tensor], folder: Path, config: ModalityConfig) -> dict[str, Tensor]:
    layout, layers = layout_of(config), config.model.layers
    names, fused = layout.names(layers), layout.fused(layers)
    if layout.optional and names[layout.optional] not in theirs:
        del names[layout.optional]
    missing = sorted((set(names.values()) | {name for group in fused.values() for name in group}) - set(theirs))
    if missing:
        raise ValueError(f"{folder} lacks {len(missing)} weights, the first is {missing[0]}: is the file complete?")
    for name in names.values():
        _check_tensor(folder, name, theirs[name])
    for group in fused.values():
        for name in group:
            _check_tensor(folder, name, theirs[name])
            if theirs[name].dim() != 2 or theirs[name].shape != theirs[group[0]].shape:
                raise ValueError(f"{folder}: {name} is {_shape(theirs[name])}, unlike {group[0]}: {_DAMAGED}")
    ours = {our: theirs[their] for our, their in names.items()}
    ours |= {our: torch.cat([theirs[their] for their in group]) for our, group in fused.items()}
    return _scaled_branches(ours, _depth_scale(config))


def _check_tensor(folder: Path, name: str, tensor: Tensor) -> None:
    """Raise ValueError for values that are no plain floating-point numbers: quantised or sparse ones."""
    if not tensor.is_floating_point() or tensor.itemsize < 2 or tensor.layout != torch.strided or tensor.is_meta:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(f"{folder}: {name} has no plain floating-point values ({kind}): give unquantised weights")


def _shape(tensor: Tensor) -> str:
    return f"[{', '.join(map(str, tensor.shape))}]"


def _depth_scale(config: ModalityConfig) -> float:
    """DeepNorm's factor on the residual stream; 1 for other blocks."""
    return deep_norm_alpha(config.model.layers) if config.model.norm == "deep" else 1.0


def _scaled_branches(state: dict[str, Tensor], factor: float) -> dict[str, Tensor]:
    """The state with what attention and feed-forward layers add to the residual stream multiplied by `factor`."""
    if factor == 1:
        return state
    return {name: tensor * factor if name.endswith(_BRANCH_OUTPUTS) else tensor for name, tensor in state.items()}


def _check_config(folder: Path, layout: Layout) -> None:
    """Raise ValueError unless config.json describes a model of our modality and sizes."""
    theirs, path = read_config(folder), folder / "config.json"
    if theirs.get("model_type") != layout.model_type:
        raise ValueError(f"{path} describes a {theirs.get('model_type')!r} model, not {layout.model_type!r}")
    for name, size in layout.sizes.items():
        value = theirs.get(name, size.default)
        if value != size.value and not (size.resizes and _is_like(value, size.value)):
            there = f"{path}: {name} is {value!r}"
            if size.key and not _is_like(value, size.value):
                raise ValueError(f"{there}, where {size.value!r} would fit this run: {_DAMAGED}")
            if not size.key:
                raise ValueError(f"{there}, but here it is always {size.value}: this model cannot be taken over")
            choose = "choose the model= (tiny, base, large, huge) of that size, or " * size.key.startswith("model.")
            ours, wanted = size.ours(size.value), size.ours(value)
            raise ValueError(f"{there}, but {size.key} is {ours}: {choose}set {size.key}={wanted}")


def _is_like(value: Any, ours: Any) -> bool:
    """True for a value of the type of ours; if it is a list, for as many equal numbers."""
    if not isinstance(ours, list):
        return type(value) is type(ours)
    return isinstance(value, list) and len(value) == len(ours) and all(type(v) is int and v == value[0] for v in value)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
