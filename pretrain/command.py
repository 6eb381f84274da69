"""What the commands beside `pretrain` share: `key=value` arguments, one line per mistake, exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

from configs.compose import parse

T = TypeVar("T")


def run(cls: type[T], function: Callable[[T], None], arguments: list[str]) -> None:
    """Call `function` with the config that the arguments describe.

    Ends the process with `error: ...` on standard error and code 2 for a wrong command line, 1 for what fails later,
    files that cannot be read or written included.
    """
    try:
        config = parse(cls, arguments)
    except ValueError as error:
        _fail(error, 2)
    try:
        function(config)
    except (ValueError, OSError) as error:
        _fail(error, 1)


def _fail(error: Exception, code: int) -> NoReturn:
    print("\n".join(f"error: {line}" for line in str(error).splitlines()), file=sys.stderr)
    sys.exit(code)
