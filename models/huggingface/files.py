"""Files of a Hugging Face folder -> config and weights.

The folder is somebody else's: whatever is wrong with it is a ValueError that names the file, and nothing in it can run
code.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

_INDEX = "model.safetensors.index.json"
_AGAIN = "get the folder again"


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json. Raises ValueError if the file does not exist or is damaged."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give a Hugging Face folder with config.json and weights")
    return read_object(path)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder: one safetensors file, several with an index, or pytorch_model.bin.

    Raises ValueError if there are none, or if files are missing or damaged.
    """
    if (folder / "model.safetensors").is_file():
        return _read_safetensors(folder / "model.safetensors")
    if (folder / _INDEX).is_file():
        return _read_indexed(folder)
    if (folder / "pytorch_model.bin").is_file():
        return _read_pickled(folder / "pytorch_model.bin")
    raise ValueError(f"{folder} has no weights: expected model.safetensors, its index, or pytorch_model.bin")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file. Raises ValueError if it is damaged."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is no JSON: {_AGAIN}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no JSON object: {_AGAIN}")
    return content


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, ValueError, LookupError, TypeError, RuntimeError) as error:
        raise _damaged(path, error) from error


def _read_indexed(folder: Path) -> dict[str, Tensor]:
    """The tensors that the index names, each from the file that it names."""
    places = read_object(folder / _INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(_is_plain(file) for file in places.values()):
        raise ValueError(f"{folder / _INDEX} has no weight_map of tensors to files of its folder: {_AGAIN}")
    files = sorted(set(places.values()))
    absent = [file for file in files if not (folder / file).is_file()]
    if absent:
        raise ValueError(f"{folder / _INDEX} names {absent[0]}, which is not there: copy all {len(files)} files")
    weights: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(folder / file, "pt") as opened:
                weights |= {name: opened.get_tensor(name) for name, place in places.items() if place == file}
        except (SafetensorError, ValueError, LookupError, TypeError, RuntimeError) as error:
            raise _damaged(folder / file, error) from error
    return weights


def _is_plain(file: object) -> bool:
    """True for the name of a safetensors file that does not lead out of its folder."""
    return isinstance(file, str) and Path(file).name == file and file.endswith(".safetensors") and "\0" not in file


def _read_pickled(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a seek to where a cut file has no bytes
            raise
        raise _damaged(path, error) from error
    except Exception as error:  # a damaged pickle fails anywhere in the unpickler
        raise _damaged(path, error) from error
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"{path} holds no weights by name: {_AGAIN}, or give one with model.safetensors")
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def _damaged(path: Path, error: Exception) -> ValueError:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return ValueError(f"{path} cannot be read as weights ({reason[:200]}): {_AGAIN}")
