"""Shards of the user's own: the overrides that follow from them, so that nobody types what the shards know."""

from __future__ import annotations

import math
from pathlib import Path

from configs.compose import GROUPS, compose_pretrain, from_yaml
from configs.keys import flat, plain, split_override
from configs.resolve.fit import NEUTRAL, DataSize, Device, micro, scale
from configs.resolve.start import CONTINUED, sizes_of
from configs.schema import PretrainConfig
from data_shards.facts import amount_of, modality_of_shards
from data_shards.text.stored_tokenizer import tokenizer_entry
from pretrain.launching.plan import Launch, Machine

_UNKNOWN_GPU_GIB = 16.0
"""Memory of GPUs that this machine cannot see: those of the hosts of a hostfile."""

_LENGTHS = {"vision": "vision.image_size", "speech": "speech.max_seconds", "text": "text.max_tokens"}
"""Key of the size of the largest sample, by modality."""


def own_data_overrides(overrides: list[str]) -> list[str]:
    """Overrides that follow from the shards: the neutral recipe of their modality, and the size of their vocabulary.

    A recipe that goes on from `init` takes the sizes of the model from there, too. Keys that `overrides` gives are left
    alone. Raises ValueError if the shards' index cannot be read, if their samples are of no modality or of several, if
    they are of another one than `modality`, or if their tokenizers differ.
    """
    given = dict(map(split_override, overrides))
    recipe = [*_recipe(overrides, given), *_of_init(overrides, given)]
    return [*recipe, *_vocabulary([*overrides, *recipe], given)]


def _of_init(overrides: list[str], given: dict[str, str]) -> list[str]:
    """The sizes of the model in `init`, for a recipe that goes on from it; a run that has begun keeps them."""
    if given.get("recipe") not in CONTINUED or "init" not in given:
        return []
    config = compose_pretrain(overrides)
    sizes = sizes_of(config.init, config.modalities[0])
    return [f"{key}={value}" for key, value in sizes.items() if key not in given]


def _recipe(overrides: list[str], given: dict[str, str]) -> list[str]:
    """The neutral recipe of `data.shards`, if no recipe is given."""
    if given.get("data.shards") in (None, "", "null") or "recipe" in given:
        return []
    data = compose_pretrain([*overrides, "recipe=demo_mixture"]).data  # a recipe of any modality: for data.* alone
    found = modality_of_shards(data)
    if given.get("modality", found) != found:
        raise ValueError(f"modality={given['modality']}, but data.shards holds {found}: leave out modality")
    return [f"recipe={found}"]


def _vocabulary(overrides: list[str], given: dict[str, str]) -> list[str]:
    """The number of types of the tokenizer that made the shards of text; nothing for tars that know of none."""
    config = compose_pretrain(overrides)
    if "text" not in config.modalities or "text.vocab_size" in given:
        return []
    entry, _ = tokenizer_entry(config.for_modality("text").data)
    return [f"text.vocab_size={entry.vocab_size}"] if entry else []


def fitted_overrides(config: PretrainConfig, overrides: list[str], launch: Launch, machine: Machine) -> list[str]:
    """Overrides of a neutral recipe that follow from the amount of data and from the device, see `configs.resolve.fit`.

    Keys that `overrides` gives are left alone. A run that has begun keeps its model, samples and batch on whatever
    device it goes on.
    """
    if config.recipe not in (*NEUTRAL, *CONTINUED) or not config.data.shards:
        return []
    given = dict(map(split_override, overrides))
    (modality,), amount = config.modalities, amount_of(config.data)
    side = round(math.sqrt(1000 * amount.length)) if modality == "vision" else 0
    memory = _UNKNOWN_GPU_GIB if launch.hostfile else machine.memory_gib
    device = Device(launch.world, memory, machine.cores // launch.local_ranks)
    batch = config.batch.global_ if "batch.global" in given else None
    sizes = scale(modality, DataSize(amount.samples, side), device, batch) | _begun(config)
    if config.recipe in CONTINUED:  # the model is that of `init`, and so is the size of its samples
        sizes = {key: value for key, value in sizes.items() if key not in ("model", _LENGTHS[modality])}
    added = [f"{key}={value}" for key, value in sizes.items() if key not in given]
    sized = compose_pretrain([*overrides, *added]).for_modality(modality)
    return [*added, *(f"{key}={value}" for key, value in micro(sized, device).items() if key not in given)]


def _begun(config: PretrainConfig) -> dict[str, str | int]:
    """Values of a run that has begun, of the keys that a resume on another device must not change."""
    file = Path(config.run.dir) / "config.yaml"
    try:
        saved = from_yaml(file) if config.run.dir and file.is_file() else None
    except ValueError:  # damaged: the run writes it anew
        return {}
    if not saved or saved.recipe != config.recipe or saved.model.size not in GROUPS["model"]:
        return {}
    values, kept = flat(plain(saved)), ("objective", "train.steps", "batch.global", _LENGTHS[saved.modalities[0]])
    return {"model": saved.model.size, **{key: values[key] for key in kept}}
