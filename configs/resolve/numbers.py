"""Values that stand for numbers -> the numbers: percentages, the teacher's horizon, and nulls that a rule replaces.

`compose_pretrain` asks for it, so every reader of a configuration finds plain numbers of steps, blocks and patches.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Any

from configs.checks.divisors import divisors
from configs.keys import LARGEST
from configs.published import BASE_WIDTH, PUBLISHED

Values = dict[str, Any]
"""A configuration as nested dicts of plain values, by alias."""
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s?%")
_STEPS = ("schedule.warmup", "schedule.hold", "teacher.decay_steps", "teacher.horizon")
"""Keys that take a percentage of the schedule's steps."""
_PATCHES = ("vision.mask.patches", "vision.mask.min_block", "vision.mask.max_block")
"""Keys that take a percentage of an image's patches."""
_LARGEST_PATCH, _FEWEST_PATCHES, _MOST_PATCHES = 16, 8, 32
"""Largest side of a patch in pixels, as published; fewest and most patches along one side of an image."""


def resolve(values: Values, given: Collection[str]) -> None:
    """Replace in `values` what stands for a number. given: keys of the command line, which win over the recipe's.

    A value whose base is no number stays or becomes 1: the base's own mistake is told later. Raises ValueError for a
    percentage above 100, and for a horizon beside a decay.
    """
    _of_v2(values, given)
    _patch_size(values["vision"])
    steps = values["schedule"]["steps"] or values["train"]["steps"]
    bases = [
        (_STEPS, _count(steps)),
        (("teacher.layers",), _count(values["model"]["layers"])),
        (_PATCHES, _grid(values["vision"]) ** 2),
    ]
    for keys, base in bases:
        for key in keys:
            _share(values, key, base)
    _horizon(values["teacher"], given)
    _learning_rate(values)


def _of_v2(values: Values, given: Collection[str]) -> None:
    """Take back what a recipe says of data2vec 2.0, where the command line says `objective=v1`."""
    if values["objective"] == "v1" and "objective" in given:
        for section, keys in (("masks", values["masks"]), ("decoder", values["decoder"]), ("loss", ("cls",))):
            for key in [key for key in keys if f"{section}.{key}" not in given]:
                values[section][key] = None


def _count(value: object) -> float:
    """The value if it is a number that others can be a share of, else 1."""
    return value if isinstance(value, int | float) and 0 <= value <= LARGEST else 1


def _share(values: Values, key: str, base: float) -> None:
    """Replace a percentage of `base`. It is 1 at least; the parts of a schedule, for which 0 is legal, are rounded
    down."""
    *sections, leaf = key.split(".")
    for section in sections:
        values = values[section]
    if not isinstance(values[leaf], str) or not (found := _PERCENT.fullmatch(values[leaf])):
        return
    percent = float(found[1])
    if percent > 100 and key != "teacher.horizon":
        raise ValueError(f"{key}={values[leaf]}: at most 100%")
    number = base * percent / 100
    values[leaf] = int(number) if key.startswith("schedule.") else max(1, round(number))


def _horizon(teacher: Values, given: Collection[str]) -> None:
    """Make the decays of `teacher.horizon`. Decays on the command line replace the recipe's horizon."""
    decays = [key for key in ("teacher.decay", "teacher.decay_end") if key in given]
    if decays and "teacher.horizon" in given and teacher["horizon"] is not None:
        raise ValueError(f"teacher.horizon and {decays[0]} both say how fast the teacher is: leave out one of them")
    if decays and teacher["horizon"] is not None:
        teacher["horizon"] = None
        if teacher["decay_end"] is None and "teacher.decay_steps" not in given:
            teacher["decay_steps"] = 0
    horizon, start = teacher["horizon"], teacher["decay"]
    if not isinstance(horizon, int | float) or isinstance(horizon, bool) or not horizon >= 1:
        return
    end = 1 - 1 / horizon
    if teacher["decay_steps"] == 0:
        teacher["decay"], teacher["decay_end"] = end, None
    else:
        teacher["decay"], teacher["decay_end"] = min(start, end), end


def _learning_rate(values: Values) -> None:
    """Replace a null `optimizer.lr` by the published one, for this batch and width; in a mixture by the smallest.

    sqrt(batch): Malladi et al. 2022 (arXiv 2205.10287), for Adam. 1 / width: Yang et al. 2022 (arXiv 2203.03466), for
    Adam and the matrices of hidden layers, which are nearly all of a Transformer.
    """
    if values["optimizer"]["lr"] is not None:
        return
    names = values["modality"] if isinstance(values["modality"], list | tuple) else [values["modality"]]
    batch, width = max(1, _count(values["batch"]["global"])), max(1, _count(values["model"]["width"]))
    published = [
        own for (objective, name), own in PUBLISHED.items() if objective == values["objective"] and name in names
    ]
    rates = [own.lr * math.sqrt(batch / own.batch) * BASE_WIDTH / width for own in published]
    values["optimizer"]["lr"] = float(f"{min(rates):.3g}") if rates else None


def _patch_size(vision: Values) -> None:
    """Replace a null `vision.patch_size`. No patch fits sides without small divisors: the check then names others."""
    if vision["patch_size"] is not None:
        return
    side = int(_count(vision["image_size"])) or 1
    fits = [n for n in divisors(side) if n <= _LARGEST_PATCH and side // n >= _FEWEST_PATCHES]
    best = max(fits, default=1)
    vision["patch_size"] = best if side // best <= _MOST_PATCHES else _LARGEST_PATCH


def _grid(vision: Values) -> int:
    """Patches along one side of an image; 1 if its numbers are none."""
    side, patch = _count(vision["image_size"]), _count(vision["patch_size"])
    return max(1, int(side // patch)) if patch else 1
