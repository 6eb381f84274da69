"""Commands in a mount namespace of their own, where /dev/shm is as small as in a container."""

from __future__ import annotations

import subprocess
import sys

import pytest

UNSHARE = ["unshare", "--map-root-user", "--mount", "sh", "-c"]


def with_shared_memory(size: str, *command: str) -> list[str]:
    """Return `python COMMAND` with a /dev/shm of `size`, as `mount` reads it. Skips the test, and says so, without."""
    mount = f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
    try:
        tried = subprocess.run([*UNSHARE, mount], capture_output=True, text=True)
        reason = tried.stderr.strip() if tried.returncode else ""
    except FileNotFoundError as error:
        reason = str(error)
    if reason:
        pytest.skip(f"NOT TESTED: a small /dev/shm needs mount namespaces, and there are none here: {reason}")
    return [*UNSHARE, f'{mount} && exec "$@"', "sh", sys.executable, *command]
