"""Settings of all tests, and those that run only when asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import configs

# Before torch is imported, here and in the processes that tests start: on a shared machine two threads per process
# run slower than one.
os.environ["OMP_NUM_THREADS"] = "1"

# An environment imports the checkout that made it: from another checkout the tests would test that one.
if Path(configs.__file__).resolve().parents[1] != (ROOT := Path(__file__).resolve().parents[1]):
    pytest.exit(
        f"the packages of {Path(configs.__file__).parents[1]} would be tested, not {ROOT}: use ./run.sh test", 2
    )

SOAK = "DATA2VEC_SOAK"
_LEFT_OUT = pytest.StashKey[int]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the soak tests among what -k and -m have chosen, unless DATA2VEC_SOAK=1."""
    if os.environ.get(SOAK) == "1":
        return
    soak = [item for item in items if item.get_closest_marker("soak")]
    if soak:
        config.hook.pytest_deselected(items=soak)
        items[:] = [item for item in items if item not in soak]
    config.stash[_LEFT_OUT] = len(soak)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many were left out, and how to run them."""
    if count := config.stash.get(_LEFT_OUT, 0):
        line = f"{count} soak tests left out, each of which has a smaller form above: {SOAK}=1 ./run.sh test -m soak"
        terminalreporter.write_line(line, yellow=True)
