"""Arguments, errors and exit codes of all commands: `key=value`, a line per mistake."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
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

_OTHER_PATH = "give another path"
LASTING = {
    errno.ENOENT: "check the path",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "change its permissions, or give another path"),
    errno.EROFS: "give a path on a disk that can be written",
    **dict.fromkeys((errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR), _OTHER_PATH),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP), _OTHER_PATH),
}
"""Errors of a path that stay until somebody mends them, with the remedy."""


class Temporary(Exception):
    """Something is gone for now that nobody has to mend: a store, a process, the network. The same command goes on."""


def code_of(error: BaseException) -> int:
    """Exit code of a command that ends with this error."""
    match error:
        case Temporary():
            return STALLED
        case ValueError():
            return MISTAKE
        case OSError(filename=str() | bytes() | Path()) if error.errno in LASTING:
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


def told(error: Exception | str) -> str:
    """Return the error's text. An OSError of a path gives the path, the reason and the remedy."""
    if not isinstance(error, OSError) or not error.filename:
        return str(error)
    place = f"{os.fsdecode(error.filename2 or error.filename)}: {error.strerror}"
    if error.errno in FULL:
        return f"{place}: make room there, or choose another folder; then give the same command"
    return f"{place}: {LASTING[error.errno]}" if error.errno in LASTING else place


def fail(error: Exception | str, code: int) -> NoReturn:
    """End the process with `code`, after a line `error: ...` for each line of the error."""
    say("\n".join(f"error: {line}" for line in told(error).splitlines()))
    sys.exit(code)
