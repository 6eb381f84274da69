"""Members of a sample that are its image or recording, its class and its text."""

from __future__ import annotations

import json
from dataclasses import dataclass

from configs.schema_commands import BuildConfig
from data_shards.shards.tar import Members
from data_shards.sources.tars.members import unpacked
from data_shards.sources.units import Unusable

_DEFAULT_TEXT = BuildConfig.__dataclass_fields__["text_field"].default


@dataclass(frozen=True)
class Field:
    """Extensions of members, in the order in which they are tried; those of JSON may go on with names inside it.

    `jpg;png` is the first that is there of KEY.jpg, KEY.png, KEY.jpg.gz, KEY.png.gz; `json.label` is "label" in
    KEY.json. Case does not matter in extensions.
    """

    names: tuple[str, ...]

    @classmethod
    def of(cls, text: str, *defaults: str) -> Field:
        """Field of a key's value; of the defaults if it is empty."""
        return cls(tuple(name for name in text.split(";") if name) or defaults)

    def find(self, members: Members) -> tuple[str, object] | None:
        """(name that was found, its bytes or its value in JSON); None if there is none. Raises Unusable."""
        for name in self.names:
            for stored in (name.lower(), f"{name.lower()}.gz"):
                if stored in members:
                    return name, unpacked(stored, bytes(members[stored]))
            if (value := _inside(members, name)) is not None:
                return name, value
        return None

    def __str__(self) -> str:
        return " or ".join(f".{name}" for name in self.names)


def _inside(members: Members, name: str) -> object:
    """Value inside a JSON member that a dotted name leads to; None if there is none. Raises Unusable."""
    parts = name.split(".")
    for place in range(1, len(parts)):
        stem = ".".join(parts[:place]).lower()
        stored = next((stored for stored in (stem, f"{stem}.gz") if stem.endswith("json") and stored in members), None)
        if stored is None:
            continue
        try:
            value = json.loads(unpacked(stored, bytes(members[stored])))
        except (ValueError, RecursionError) as error:
            raise Unusable("not JSON", f".{stored}: {error}") from None
        for part in parts[place:]:
            value = value.get(part) if isinstance(value, dict) else None
        return value
    return None


@dataclass(frozen=True)
class Mapping:
    """Fields of a sample."""

    data: Field
    label: Field
    text: Field


def mapping(config: BuildConfig, extensions: tuple[str, ...]) -> Mapping:
    """The members that the keys name; by default those of WebDataset's conventions. extensions: of the data."""
    text = "" if config.text_field == _DEFAULT_TEXT else config.text_field
    return Mapping(
        Field.of(config.data_field, *extensions), Field.of(config.label_field, "cls"), Field.of(text, "txt", "text")
    )
