"""Arguments, errors and exit codes of all commands: `key=value`, a line per mistake."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

from configs.compose import parse
from configs.output.lines import prepare_lines, say

T = TypeVar("T")

IDLE_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Environment in which torch's threads sleep while they have nothing to do; it is read when torch is imported.

By default they spin. On cores that other processes need too, a probe then takes four times as long."""
FAILED = 1
"""Something failed. A line or a traceback on standard error names it."""
MISTAKE = 2
"""A mistake on the command line, in the environment or in the files that they name. One line gives the remedy."""
STALLED = 76
"""A store, a process or the network is gone for now (EX_PROTOCOL of sysexits.h). The same command goes on."""
INTERRUPTED = 130
"""Ctrl-C, in commands that save nothing (128 + SIGINT, as shells have it)."""


FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk or a quota without room."""


class Temporary(Exception):
    """Something is gone for now that nobody has to mend: a store, a process, the network. The same command goes on."""


def code_of(error: BaseException) -> int:
    """Exit code of a command that ends with this error."""
    match error:
        case Temporary():
            return STALLED
        case ValueError():
            return MISTAKE
        case KeyboardInterrupt():
            return INTERRUPTED
        case _:
            return FAILED


def run(cls: type[T], function: Callable[[T], None], arguments: list[str]) -> None:
    """Call `function` with the config that the arguments describe, as `guarded` does."""
    guarded(lambda: function(parse(cls, arguments)))


def guarded(command: Callable[[], None]) -> None:
    """Call a command.

    Errors end the process with `error: ...` on standard error and the code of `code_of`. Bugs keep their traceback.
    """
    prepare_lines()
    os.environ.update({**IDLE_THREADS, **os.environ})
    try:
        command()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` for instance, has seen enough: end as other programs do
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
    except (ValueError, OSError, Temporary) as error:
        fail(error, code_of(error))
    except KeyboardInterrupt:
        fail("interrupted: give the same command again", INTERRUPTED)


def fail(error: Exception | str, code: int) -> NoReturn:
    """End the process with `code`, after a line `error: ...` for each line of the error."""
    text = str(error)
    if isinstance(error, OSError) and error.errno in FULL and error.filename:
        text = (
            f"{error.filename}: {error.strerror}: make room there, or choose another folder; then give the same command"
        )
    say("\n".join(f"error: {line}" for line in text.splitlines()))
    sys.exit(code)
