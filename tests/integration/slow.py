"""A command of the project in which some functions take SLOW_S longer, the first time that they are called.

    python -m tests.integration.slow MODULE FUNCTIONS key=value ...

FUNCTIONS: `module:name` or `module:Class.name`, separated by commas; `start` is the time before anything is imported.
$SLOW_CALLED: file that gets a line for each one called. $SLOW_RANKS: functions of the ranks of `pretrain.launch`.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import os
import runpy
import sys
import time
from types import ModuleType

SLOW_S = 6.0


def note(spot: str) -> None:
    with open(os.environ["SLOW_CALLED"], "a") as file:
        file.write(f"{spot}\n")
    time.sleep(SLOW_S)


def slow_down(module: ModuleType, path: str) -> None:
    """Make a function of a module take longer once."""
    owner, (*classes, name) = module, path.split(".")
    for inner in classes:
        owner = getattr(owner, inner)
    function, called = getattr(owner, name), []

    @functools.wraps(function)
    def slow(*arguments, **options):
        if not called:
            called.append(True)
            note(f"{module.__name__}:{path}")
        return function(*arguments, **options)

    setattr(owner, name, slow)


class Planter(importlib.abc.MetaPathFinder):
    """Finder of modules that plants into some of them as soon as they are imported, and imports none by itself."""

    def __init__(self, spots: list[str]) -> None:
        self.spots = [spot.split(":") for spot in spots]

    def find_spec(self, name, path, target=None):
        paths = [path for module, path in self.spots if module == name]
        if not paths:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def planted(module: ModuleType) -> None:
            execute(module)
            for path in paths:
                slow_down(module, path)

        spec.loader.exec_module = planted
        return spec


def main(module: str, spots: list[str], arguments: list[str]) -> None:
    if "start" in spots:
        note("start")
    sys.meta_path.insert(0, Planter([spot for spot in spots if spot != "start"]))
    if module == "pretrain.launch":
        from pretrain.launching import command_line

        ranks = ["tests.integration.slow", "pretrain.train", os.environ["SLOW_RANKS"]]
        command_line.MODULE = [*command_line.MODULE[:-1], *ranks]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1], [spot for spot in sys.argv[2].split(",") if spot], sys.argv[3:])
