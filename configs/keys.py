"""The flat view of a config class: its dotted keys, the nearest match of a wrong one, and readable errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from textwrap import wrap
from typing import Any, TypeVar, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from configs.checks.nearest import unknown_key
from configs.schema_training import Patterns

T = TypeVar("T")
COLUMNS = 120
"""Width of `--help`."""
_FIRST_COLUMN = 40
"""Width of the keys and their defaults in `--help`, at most."""


@dataclass(frozen=True)
class Key:
    """One leaf of a config class."""

    name: str
    """Dotted name, by alias, as users write it: `batch.global`."""
    kind: Any
    """Its annotation."""
    default: Any
    """Its default; pydantic's undefined value if the key is required."""
    description: str
    """The field's docstring."""

    @property
    def required(self) -> bool:
        """True if there is no default."""
        return repr(self.default) == "PydanticUndefined"

    @property
    def values(self) -> int | None:
        """Number of values that a list key needs; None for other keys."""
        return len(get_args(self.kind)) if get_origin(self.kind) is tuple else None


def leaf_keys(cls: type, prefix: str = "") -> dict[str, Key]:
    """Every leaf of `cls`, by dotted name, in the order of the schema."""
    found: dict[str, Key] = {}
    for name, field in cls.__pydantic_fields__.items():  # type: ignore[attr-defined]
        dotted = prefix + (field.alias or name)
        if isinstance(field.annotation, type) and is_dataclass(field.annotation):
            found |= leaf_keys(field.annotation, dotted + ".")
        else:
            found[dotted] = Key(dotted, field.annotation, field.default, field.description or "")
    return found


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Values of nested dicts by dotted keys."""
    if not isinstance(values, dict):
        return {prefix.removesuffix("."): values}
    return {name: value for key, inner in values.items() for name, value in flat(inner, f"{prefix}{key}.").items()}


def split_override(override: str) -> tuple[str, str]:
    """`key=value` -> (key, value).

    Raises ValueError for anything else, hydra's `+key` and `~key` included: the schema defines all keys.
    """
    key, equals, value = override.partition("=")
    if not equals or not key or key[0] in "+~-":
        raise ValueError(f"expected key=value, got '{override}'")
    return key, unquote(value)


def unquote(value: str) -> str:
    """Drop a pair of quotes that the shell left around the value."""
    quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value


def build(cls: type[T], values: dict[str, Any]) -> T:
    """Typed config from nested plain values.

    Raises ValueError, a line per mistake, for unknown and missing keys and wrong values.
    """
    try:
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        keys = leaf_keys(cls)
        raise ValueError("\n".join(dict.fromkeys(_describe(mistake, keys) for mistake in error.errors()))) from None


def _describe(mistake: Any, keys: dict[str, Key]) -> str:
    """One of pydantic's mistakes -> a line: the key, the user's value, and the expected one."""
    key = ".".join(str(part) for part in mistake["loc"])
    owner = keys.get(".".join(part for part in mistake["loc"] if isinstance(part, str)))
    match mistake["type"]:
        case "missing" | "too_long" | "tuple_type" if owner and owner.values:
            example = f"{owner.name}={_written(owner.default)}"
            return f"{owner.name}={_written(mistake['input'])}: expected {owner.values} values, e.g. {example}"
        case "unexpected_keyword_argument" | "extra_forbidden":
            return str(unknown_key(key, list(keys)))
        case "missing":
            return f"'{key}' is missing: give {key}=VALUE"
        case _:
            expected = mistake["msg"].removeprefix("Input should be ")
            return f"{key}={_written(mistake['input'])}: expected {expected}"


def no_value(key: Key) -> str | None:
    """Value that `null` stands for: "" for text with a default (as in `init=null`), else None."""
    return "" if key.kind in (str, Patterns) and not key.required else None


def help_text(cls: type, groups: Mapping[str, Sequence[str]] | None = None) -> str:
    """Usage, purpose, groups of values and keys of `cls`, at most 120 columns wide.

    The class's docstring is "`./run.sh COMMAND`: purpose". groups: name -> choices.
    """
    command, _, purpose = (cls.__doc__ or "").partition("`: ")
    keys = list(leaf_keys(cls).values())
    required = [f"{key.name}=VALUE" for key in keys if key.required]
    lines = [f"usage: {' '.join([command.removeprefix('`'), *required])} [key=value ...]", "", purpose, ""]
    if groups:
        choices = [(f"{name}=", ", ".join(groups[name])) for name in groups]
        lines += ["Groups, each with its choices:", *_rows(choices), ""]
    return "\n".join([*lines, "Keys, each with its default:", *_rows([_entry(key) for key in keys])])


def _entry(key: Key) -> tuple[str, str]:
    """The two columns of a key's help: key and default, and meaning."""
    meaning = " ".join(key.description.split())
    if key.required:
        return f"{key.name}=VALUE", f"Required. {meaning}"
    return f"{key.name}={_written(key.default)}", meaning


def _rows(entries: list[tuple[str, str]]) -> list[str]:
    """Two columns, the second one wrapped; it begins on a new line where the first is too long."""
    width = min(_FIRST_COLUMN, 4 + max(len(first) for first, _ in entries))
    rows = []
    for first, second in entries:
        first_line, *others = wrap(second, COLUMNS - width, break_long_words=False, break_on_hyphens=False)
        if len(start := f"  {first}  ".ljust(width)) > width:
            rows.append(start.rstrip())
            start = " " * width
        rows += [start + first_line, *(" " * width + line for line in others)]
    return rows


def _written(value: Any) -> str:
    """A value as the command line writes it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case tuple() | list():
            return "[" + ",".join(f"{item:g}" if isinstance(item, float) else _written(item) for item in value) + "]"
        case _:
            return str(value)
