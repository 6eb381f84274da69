"""Files of a Hugging Face folder -> config and weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json. Raises ValueError if the file does not exist."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give a Hugging Face folder with config.json and weights")
    return json.loads(path.read_text())


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder: one safetensors file, several with an index, or pytorch_model.bin. Raises ValueError if
    there are none, or files are missing."""
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
