"""Every command has an example, and the command takes it."""

from __future__ import annotations

import shlex

import pytest

from configs.checks.run import check
from configs.compose import compose_pretrain, parse
from configs.output.examples import EXAMPLES
from configs.schema import PretrainConfig
from tests.configs.test_help import COMMANDS


def test_every_command_has_one() -> None:
    assert EXAMPLES.keys() == COMMANDS.keys()


@pytest.mark.parametrize("command", EXAMPLES)
def test_the_command_takes_it(command: str) -> None:
    arguments = shlex.split(EXAMPLES[command])
    if issubclass(COMMANDS[command], PretrainConfig):
        check(compose_pretrain(arguments), world=1)
    else:
        parse(COMMANDS[command], arguments)
