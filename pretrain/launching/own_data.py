"""Shards of the user's own: the overrides that follow from them, so that nobody types what the shards know."""

from __future__ import annotations

from configs.compose import compose_pretrain
from configs.keys import split_override
from data_shards.facts import modality_of_shards
from data_shards.text.stored_tokenizer import tokenizer_entry


def own_data_overrides(overrides: list[str]) -> list[str]:
    """Overrides that follow from the shards: the neutral recipe of their modality, and the size of their vocabulary.

    Keys that `overrides` gives are left alone. Raises ValueError if the shards' index cannot be read, if their samples
    are of no modality or of several, if they are of another one than `modality`, or if their tokenizers differ.
    """
    given = dict(map(split_override, overrides))
    recipe = _recipe(overrides, given)
    return [*recipe, *_vocabulary([*overrides, *recipe], given)]


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
