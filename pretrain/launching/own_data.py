"""Shards of the user's own: the overrides that follow from them, so that nobody types what the shards know."""

from __future__ import annotations

from configs.compose import compose_pretrain
from configs.keys import split_override
from data_shards.facts import modality_of_shards


def own_data_overrides(overrides: list[str]) -> list[str]:
    """Overrides that follow from `data.shards`: the neutral recipe of their modality, if no recipe is given.

    Raises ValueError if the shards' index cannot be read, if their samples are of no modality or of several, and if
    they are of another one than `modality`.
    """
    given = dict(map(split_override, overrides))
    if given.get("data.shards") in (None, "", "null") or "recipe" in given:
        return []
    data = compose_pretrain([*overrides, "recipe=demo_mixture"]).data  # a recipe of any modality: for data.* alone
    found = modality_of_shards(data)
    if given.get("modality", found) != found:
        raise ValueError(f"modality={given['modality']}, but data.shards holds {found}: leave out modality")
    return [f"recipe={found}"]
