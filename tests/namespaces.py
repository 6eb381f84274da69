"""Commands with a /dev/shm as small as in a container, and without root's right to read every file."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_NO_CAPABILITIES = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
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


def unprivileged(*command: str) -> list[str]:
    """Return the command as one that permissions of files hold for. Skips the test, and says so, if that cannot be."""
    if os.geteuid():
        return [*command]
    try:
        subprocess.run([*_NO_CAPABILITIES, "true"], check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"NOT TESTED: root may read everything, and setpriv cannot prevent it here: {error}")
    return [*_NO_CAPABILITIES, *command]
