"""Print the configuration that `pretrain` would use, and mark what differs from the recipe and from published values.

python -m pretrain.describing.configuration recipe=NAME [key=value ...]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from configs.checks.run import check, resolve_lanes
from configs.command import guarded
from configs.compose import compose_recipe, print_help
from configs.keys import flat, plain, written
from configs.output.lines import say
from configs.output.secrets import masked
from configs.published import published_recipe
from configs.schema import PretrainConfig
from configs.schema_commands import ConfigCommandConfig
from configs.schema_modalities import MODALITIES
from pretrain.describing.unworkable import of_configuration
from pretrain.launching.resolved import resolve_run

_UNPUBLISHED = {"model.size", "model.activation_checkpointing", "model.compile", "batch.micro", "data", "deepspeed",
                "run", "log", "checkpoint", "guard", "watchdog", "probe", "launch", "cluster", "recipe", "demo", "init",
                "precision", "mixture"}  # fmt: skip
"""Keys, and sections of keys, that are no part of a published recipe: they do not change what is learned."""


def describe(config: PretrainConfig) -> list[str]:
    """A line for each key: marks, `key=value`, and a comment where the value stands for another or differs."""
    values, recipe = _resolved(config), _resolved(compose_recipe(config.recipe))
    name = published_recipe(config.recipe, config.objective, config.modalities, config.model.size)
    published = _resolved(compose_recipe(name)) if name else {}
    changed = {key for key in values if values[key] != recipe[key] and key != "recipe"}
    unlike = {key for key in published if values[key] != published[key] and _is_published(key, config)}
    lines = []
    for key, value in flat(plain(config)).items():
        if not _concerns(key, config):
            continue
        notes = [f"here {written(values[key])}"] if value is None and values[key] is not None else []
        notes += [f"recipe {written(recipe[key]) or 'none'}"] if key in changed else []
        notes += [f"published {written(published[key])}"] if key in unlike else []
        entry = f"{'*' if key in changed else ' '}{'~' if key in unlike else ' '} {key}={written(value)}"
        lines.append(f"{entry:<48}  # {'; '.join(notes)}" if notes else entry)
    return [*_head(config, name, len(changed), len(unlike)), *lines]


def _head(config: PretrainConfig, published: str | None, changed: int, unlike: int) -> Iterator[str]:
    """Comments above the keys: the meaning of the marks, and how many keys have them."""
    yield f"# * differs from recipe={config.recipe}: {changed}"
    if published:
        yield f"# ~ differs from what was published, recipe={published}: {unlike}"
    else:
        yield "# no run of this kind was published, so there is nothing to compare with"


def _concerns(key: str, config: PretrainConfig) -> bool:
    """False for keys of modalities or of an objective that the run does not have, and of mixtures where it is none."""
    section, *rest = key.split(".")
    names = {section, *rest[:1]} & set(MODALITIES)
    of_v2 = section in ("masks", "decoder") or key == "loss.cls"
    return (
        names <= set(config.modalities)
        and (section != "mixture" or config.is_mixture)
        and (not of_v2 or config.objective == "v2")
    )


def _is_published(key: str, config: PretrainConfig) -> bool:
    """True for keys that a publication gives: those of training and of the run's own modalities."""
    return _concerns(key, config) and not {key, key.partition(".")[0]} & _UNPUBLISHED


def _resolved(config: PretrainConfig) -> dict[str, Any]:
    """Values by dotted key, as `plain` gives them; a null that stands for a value of this run is replaced by it."""
    values = flat(plain(config))
    own = {modality: config.for_modality(modality) for modality in config.modalities}
    for section in ("model", "teacher", "loss", *(("masks", "decoder") if config.objective == "v2" else ())):
        meant = {name: vars(getattr(one, section)) for name, one in own.items()}
        for key in next(iter(meant.values())):
            if values[f"{section}.{key}"] is None:
                each = {name: fields[key] for name, fields in meant.items()}
                same = len(set(each.values())) == 1
                values[f"{section}.{key}"] = next(iter(each.values())) if same else " ".join(
                    f"{name}:{written(value)}" for name, value in each.items())  # fmt: skip
    values["schedule.steps"] = config.schedule.steps or config.train.steps
    if not config.is_mixture:
        batch = own[config.modalities[0]].batch
        values["data.lanes"] = resolve_lanes(batch.global_, config.data.lanes, batch.equal)
    return values


def main(overrides: list[str]) -> None:
    """Print the configuration, and warnings of what such a run cannot achieve.

    Raises ValueError, after the configuration, if the run could not start with it on this machine.
    """
    print_help(ConfigCommandConfig, overrides)
    run = resolve_run(overrides)
    print(masked("\n".join(describe(run.config))), flush=True)
    check(run.config, run.launch.world)
    for line in of_configuration(run.config):
        say(f"WARNING {line}")


if __name__ == "__main__":
    guarded(lambda: main(sys.argv[1:]))
