"""The flat view of a config class: its dotted keys, the nearest match of a wrong one, and readable errors."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, is_dataclass, replace
from itertools import groupby
from textwrap import wrap
from typing import Any, TypeVar, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from configs.checks.nearest import unknown_key
from configs.output.examples import EXAMPLES
from configs.schema_training import Patterns

T = TypeVar("T")
LARGEST = 2**31 - 1
"""Largest number that any key takes. Larger ones overflow in torch or in the operating system."""
COLUMNS = 120
"""Width of `--help`."""
_WORDS = {"null": None, "true": True, "false": False}
_SHOWN = 200  # characters of a value in an error
_NO_TEXT = ("Cc", "Cs", "Zl", "Zp")  # control characters, undecodable bytes, separators of lines and paragraphs
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

    Raises ValueError for anything else, hydra's `+key` and `~key` included: the schema defines all keys. Raises it for
    text that no line of an error or a log could show, too.
    """
    key, equals, value = override.partition("=")
    if any(unicodedata.category(sign) in _NO_TEXT for sign in override):
        raise ValueError(
            f"{override!a} holds line breaks, control characters or bytes that are not UTF-8: leave them out"
        )
    if not equals or not key or key[0] in "+~-":
        raise ValueError(f"expected key=value, got '{override}'")
    return key, unquote(value)


def unquote(value: str) -> str:
    """Drop a pair of quotes that the shell left around the value."""
    quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value


def typed(key: Key, text: str) -> Any:
    """Value of `text` on the command line: the text itself for keys of text, where null stands for "".

    For other keys: None, a flag, a number or a list if `text` is one. The schema refuses what does not fit.
    """
    if key.kind in (str, Patterns):
        return ("" if not key.required else None) if text == "null" else text
    return _number_or_list(text)


def _number_or_list(text: str) -> Any:
    if text.startswith("[") and text.endswith("]"):
        return [_number_or_list(unquote(item.strip())) for item in text[1:-1].split(",") if text != "[]"]
    if text in _WORDS:
        return _WORDS[text]
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def plain(config: Any) -> Any:
    """Config -> nested dicts of plain values, keyed by alias."""
    return TypeAdapter(type(config)).dump_python(config, by_alias=True, mode="json")


def build(cls: type[T], values: dict[str, Any]) -> T:
    """Typed config from nested plain values.

    Raises ValueError, a line per mistake, for unknown and missing keys and wrong values.
    """
    keys = leaf_keys(cls)
    mistakes = [f"{name}={written(value)}: expected a number" for name, value in _flags_as_numbers(keys, values)]
    try:
        built = TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        mistakes += [_describe(mistake, keys) for mistake in error.errors()]
        raise ValueError("\n".join(dict.fromkeys(mistakes))) from None
    mistakes += [
        f"{name}={written(value)}: expected numbers between -{LARGEST} and {LARGEST}"
        for name, value in flat(plain(built)).items()
        if any(isinstance(item, int | float) and abs(item) > LARGEST for item in _items(value))
    ]
    if mistakes:
        raise ValueError("\n".join(mistakes))
    return built


def _flags_as_numbers(keys: Mapping[str, Key], values: Any) -> Iterator[tuple[str, Any]]:
    """Keys of numbers, with their values, to which true or false was given; they would pass for 1 and 0."""
    for name, value in flat(values).items():
        takes_flags = name in keys and bool in (keys[name].kind, *get_args(keys[name].kind))
        if name in keys and not takes_flags and any(isinstance(item, bool) for item in _items(value)):
            yield name, value


def _items(value: Any) -> Sequence[Any]:
    """Items of a list; a list of the value itself where it is none."""
    return value if isinstance(value, list | tuple) else [value]


def _describe(mistake: Any, keys: dict[str, Key]) -> str:
    """One of pydantic's mistakes -> a line: the key, the user's value, and the expected one."""
    key = ".".join(str(part) for part in mistake["loc"])
    owner = keys.get(".".join(part for part in mistake["loc"] if isinstance(part, str)))
    match mistake["type"]:
        case "missing" | "too_long" | "tuple_type" if owner and owner.values:
            example = f"{owner.name}={written(owner.default)}"
            return f"{owner.name}={written(mistake['input'])}: expected {owner.values} values, e.g. {example}"
        case "unexpected_keyword_argument" | "extra_forbidden":
            return str(unknown_key(key, list(keys)))
        case "value_error":
            return f"{key}={written(mistake['input'])}: {mistake['msg'].removeprefix('Value error, ')}"
        case "missing":
            return f"'{key}' is missing: give {key}=VALUE"
        case _:
            expected = mistake["msg"].removeprefix("Input should be ")
            return f"{key}={written(mistake['input'])}: expected {expected}"


def help_text(
    cls: type, groups: Mapping[str, Sequence[str]] | None = None, values: Mapping[str, Any] | None = None
) -> str:
    """Usage, purpose, an example, groups of values and keys of `cls`, at most 120 columns wide.

    The class's docstring is "`./run.sh COMMAND`: purpose". groups: name -> choices. values: of keys, to show in
    place of their defaults.
    """
    command, _, purpose = (cls.__doc__ or "").partition("`: ")
    command, keys = command.removeprefix("`"), list(leaf_keys(cls).values())
    required = [key for key in keys if key.required]
    usage = " ".join([command, *(f"{key.name}=VALUE" for key in required), "[key=value ...]"])
    lines = [
        f"usage: {usage}",
        "",
        purpose,
        "",
        f"Example: {command} {EXAMPLES[command.removeprefix('./run.sh ')]}",
        "",
    ]
    if groups:
        choices = [(f"{name}=", ", ".join(groups[name])) for name in groups]
        lines += ["Groups, each with its choices:", *_rows(choices), ""]
    if required:
        lines += ["Required keys:", *_rows([_entry(key) for key in required]), ""]
    shown = [replace(key, default=(values or {}).get(key.name, key.default)) for key in keys if not key.required]
    title = f"Keys, each with its {'value in this configuration' if values else 'default'}"
    return "\n".join([*lines, *_sections(cls, title, shown)])


def _sections(cls: type, title: str, keys: list[Key]) -> Iterator[str]:
    """Lines of the keys: those without a section, and below its name and purpose those of each section."""
    purposes = {name: field.annotation.__doc__ for name, field in cls.__pydantic_fields__.items()  # type: ignore[attr-defined]
                if isinstance(field.annotation, type) and is_dataclass(field.annotation)}  # fmt: skip
    yield f"{title}:"
    for name, some in groupby(keys, key=lambda key: key.name.partition(".")[0] if "." in key.name else ""):
        if name:
            yield from ("", *wrap(f"{name}: {' '.join((purposes[name] or '').split())}", COLUMNS))
        yield from _rows([_entry(key) for key in some])


def _entry(key: Key) -> tuple[str, str]:
    """The two columns of a key's help: key and default, and meaning."""
    meaning = " ".join(key.description.split())
    if key.required:
        return f"{key.name}=VALUE", meaning
    return f"{key.name}={written(key.default)}", meaning


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


def written(value: Any) -> str:
    """A value as the command line writes it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case tuple() | list():
            return "[" + ",".join(f"{item:g}" if isinstance(item, float) else written(item) for item in value) + "]"
        case _ if len(text := str(value)) > _SHOWN:
            return f"{text[:_SHOWN]}..."
        case _:
            return text


def set_value(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key of nested dicts."""
    *sections, leaf = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
    values[leaf] = value
