"""Command line and YAML files -> typed, checked config. Hydra composes; the schema decides which keys exist.

Hydra is used as a library: no output folders, no change of directory, the same result in every process that is
given the same overrides.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from configs.checks.before_install import groups
from configs.checks.nearest import unknown_choice, unknown_key
from configs.keys import build, flat, help_text, leaf_keys, plain, set_value, split_override, typed
from configs.output.secrets import masked
from configs.resolve.numbers import resolve
from configs.schema import PretrainConfig
from configs.schema_modalities import MODALITIES

T = TypeVar("T")
FOLDER = Path(__file__).resolve().parent
GROUPS = groups()
"""Group -> its choices, e.g. model -> base, huge, large, tiny."""


def compose_pretrain(overrides: list[str]) -> PretrainConfig:
    """`key=value` and `group=choice` of a command line -> the config. The command line wins over the YAML files.

    Its numbers are final: percentages, and nulls that stand for a rule, are resolved. Raises ValueError that names the
    key (or the group) and the remedy. Rules across keys: `configs.checks.run.check`.
    """
    pairs = [split_override(override) for override in overrides]
    asked = next((_modalities(value) for key, value in reversed(pairs) if key == "modality"), None)
    pairs = [(key, value) for key, value in pairs if key != "modality"]
    for key, value in pairs:
        _check_key(key, value)
    recipe = dict(pairs).get("recipe") or _recipe_of(pairs, asked)
    values = _values_of(recipe, pairs)
    if asked:
        values["modality"] = _chosen(recipe, values["modality"], asked)
    _check_required(recipe, values)
    resolve(values, {key for key, _ in pairs})
    return build(PretrainConfig, values)


def compose_recipe(name: str) -> PretrainConfig:
    """The configuration of a recipe alone. Keys that it requires are empty."""
    values = _values_of(name, [])
    for key in OmegaConf.missing_keys(OmegaConf.create(values)):
        set_value(values, key, "")
    resolve(values, ())
    return build(PretrainConfig, values)


def parse(cls: type[T], arguments: list[str]) -> T:
    """`key=value` arguments of another command than `pretrain` (BuildConfig, ShowConfig, ...) -> its config.

    A key `recipe` brings the recipe's values of the keys that the command has in common with `pretrain`.
    `--help` prints the keys and ends the process. Raises ValueError like `compose_pretrain`.
    """
    print_help(cls, arguments)
    known, pairs = leaf_keys(cls), [split_override(argument) for argument in arguments]
    if wrong := [key for key, _ in pairs if key not in known]:
        raise unknown_key(wrong[0], list(known))
    values = _of_recipe(pairs, {name.partition(".")[0] for name in known})
    for key, value in pairs:
        set_value(values, key, typed(known[key], value))
    return build(cls, values)


def _of_recipe(pairs: list[tuple[str, str]], sections: set[str]) -> dict[str, Any]:
    """The values of `sections` in the recipe that `pairs` name, resolved with the other pairs; empty without a recipe.

    Raises ValueError if there is no such recipe.
    """
    if not (recipe := dict(pairs).get("recipe")):
        return {}
    _check_key("recipe", recipe)
    keys = leaf_keys(PretrainConfig)
    given = [(key, value) for key, value in pairs if key in keys and key != "modality"]
    values = _values_of(recipe, given)
    resolve(values, {key for key, _ in given})
    return {name: value for name, value in values.items() if name in sections}


def print_help(cls: type, arguments: list[str]) -> None:
    """Print the keys of `cls` and end the process if the user asks for help.

    The keys of `pretrain` have the values of the recipe and the keys that are given beside `--help`. Raises ValueError
    as `compose_pretrain`.
    """
    if {"-h", "--help"} & set(arguments):
        composes, given = issubclass(cls, PretrainConfig), [word for word in arguments if word not in ("-h", "--help")]
        values = flat(_without_secrets(plain(compose_pretrain(given)))) if composes and given else None
        try:
            print(help_text(cls, GROUPS if composes else None, values), flush=True)
        except BrokenPipeError:  # the reader, `head` for instance, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0)


def to_yaml(config: PretrainConfig, notes: Mapping[str, str] | None = None) -> str:
    """The whole config as YAML, by alias, its credentials hidden; `notes` (versions, revision) become comments."""
    comments = "".join(f"# {name}: {note}\n" for name, note in (notes or {}).items())
    return comments + yaml.safe_dump(_without_secrets(plain(config)), sort_keys=False, allow_unicode=True)


def from_yaml(path: str | Path) -> PretrainConfig:
    """Read the config that `to_yaml` wrote. Raises ValueError that names a file that is missing, broken or has unknown
    keys."""
    try:
        return build(PretrainConfig, yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}: give the folder of a run") from None
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None


def _without_secrets(value: Any) -> Any:
    """Plain values with the credentials in their texts hidden."""
    match value:
        case dict():
            return {key: _without_secrets(inner) for key, inner in value.items()}
        case list():
            return [_without_secrets(inner) for inner in value]
        case str():
            return masked(value)
        case _:
            return value


def _values_of(recipe: str, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Values of a recipe with the groups and keys of `pairs`, which exist, as nested dict; nothing is resolved.

    Hydra chooses files. Values do not pass through it: its grammar gives braces, commas and $ a meaning of its own.
    """
    keys, chosen = leaf_keys(PretrainConfig), [f"{k}={v}" for k, v in pairs if k in GROUPS and k != "recipe"]
    values = _hydra([f"recipe={recipe}", *chosen])
    for key, value in pairs:
        if key not in GROUPS:
            set_value(values, key, typed(keys[key], value))
    return {**values, "recipe": recipe}


def _hydra(overrides: list[str]) -> dict[str, Any]:
    """Compose the YAML files that the overrides `group=choice` name -> nested dict."""
    ConfigStore.instance().store(name="schema", node=plain(PretrainConfig()))
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        composed = OmegaConf.to_container(compose("pretrain", overrides=overrides), resolve=True)
    assert isinstance(composed, dict)
    return {str(key): value for key, value in composed.items()}


def _modalities(value: str) -> tuple[str, ...]:
    """`speech`, or `[vision,speech]` -> names. Raises ValueError for a name that is unknown or there twice."""
    names = tuple(name.strip() for name in value.strip("[]").split(","))
    for name in names:
        if name not in MODALITIES or names.count(name) > 1:
            wrong = "twice" if name in MODALITIES else "unknown"
            choices = f"one of {', '.join(MODALITIES)}, or a list of them, as [vision,speech]"
            raise ValueError(f"modality={value}: '{name}' is {wrong}: {choices}")
    return names


def _recipe_of(pairs: list[tuple[str, str]], asked: tuple[str, ...] | None) -> str:
    """The recipe if the user names none: a demo, or with shards of the user's own the modality's neutral recipe.

    Raises ValueError if there are shards, and the modality is not given or has no neutral recipe.
    """
    own = next((key for key, value in pairs if _names_shards(key) and value not in ("", "null")), None)
    match asked or PretrainConfig().modalities:
        case ("vision",) if not own:
            return "demo"
        case (modality,) if not own:
            return f"demo_{modality}"
        case (modality,) if asked and modality in GROUPS["recipe"]:
            return modality
        case (_,) if not asked and own == "data.shards":
            raise ValueError(f"{own} without recipe and modality: add modality={', '.join(MODALITIES)} or recipe=NAME")
        case _ if own:
            raise ValueError(f"{own} without recipe: add recipe=mixture_base, or recipe=demo_mixture for its numbers")
        case _:
            return "demo_mixture"


def _names_shards(key: str) -> bool:
    """True for keys of the shards that a run trains on."""
    return key in ("data.shards", *(f"mixture.{modality}.shards" for modality in MODALITIES))


def _chosen(recipe: str, theirs: str | list[str], asked: tuple[str, ...]) -> str | tuple[str, ...]:
    """The modalities asked for. Raises ValueError if the recipe is not made for them."""
    if not set(asked) <= (made_for := {theirs} if isinstance(theirs, str) else set(theirs)):
        others = ", ".join(name for name in GROUPS["recipe"] if len(asked) == 1 and asked[0] in name) or "mixture_base"
        raise ValueError(
            f"recipe={recipe} is for {', '.join(sorted(made_for))}, not modality={','.join(asked)}: leave one of both "
            f"out, or choose another recipe, as {others}"
        )
    return asked[0] if len(asked) == 1 else asked


def _check_key(key: str, value: str) -> None:
    """Raise ValueError for a key that does not exist, a group's unknown choice, and a section given a value."""
    keys = leaf_keys(PretrainConfig)
    if key in GROUPS:
        if value not in GROUPS[key]:
            raise unknown_choice(key, value, GROUPS[key])
    elif inside := [name for name in keys if name.startswith(key + ".")]:
        raise ValueError(f"'{key}' is a section: set one of its keys, e.g. {inside[0]}=VALUE")
    elif key not in keys:
        raise unknown_key(key, [*keys, *GROUPS])


def _check_required(recipe: str, values: dict[str, Any]) -> None:
    """Raise ValueError if a key that the recipe's file marks as required (`???`) is missing or empty."""
    file = OmegaConf.load(FOLDER / "recipe" / f"{recipe}.yaml")
    for key in sorted(OmegaConf.missing_keys(file)):
        if OmegaConf.select(OmegaConf.create(values), key) in (None, ""):
            meaning = leaf_keys(PretrainConfig)[key].description.partition(". ")[0]
            raise ValueError(f"recipe={recipe} needs {key}=VALUE ({meaning})")
