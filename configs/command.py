"""Arguments, errors and exit codes of all commands: `key=value`, a line per mistake."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

from configs.compose import parse

T = TypeVar("T")


def run(cls: type[T], function: Callable[[T], None], arguments: list[str]) -> None:
    """Call `function` with the config that the arguments describe.

    Errors end the process with `error: ...` on standard error: code 2 for a wrong command line, 1 for a later failure
    (files that cannot be read or written included), 130 after Ctrl-C.
    """
    try:
        config = parse(cls, arguments)
    except ValueError as error:
        fail(error, 2)
    try:
        function(config)
    except (ValueError, OSError) as error:
        fail(error, 1)
    except KeyboardInterrupt:
        fail("interrupted: give the same command again", 130)


def fail(error: Exception | str, code: int) -> NoReturn:
    """End the process with `code`, after a line `error: ...` for each line of the error."""
    print("\n".join(f"error: {line}" for line in str(error).splitlines()), file=sys.stderr)
    sys.exit(code)
