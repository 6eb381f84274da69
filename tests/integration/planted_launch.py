"""`./run.sh pretrain` whose ranks are `tests.integration.planted`."""

from __future__ import annotations

import sys

from pretrain import launch
from pretrain.launching import command_line

if __name__ == "__main__":
    command_line.MODULE = [*command_line.MODULE[:-1], "tests.integration.planted", *sys.argv[1:4]]
    sys.exit(launch.main(sys.argv[4:]))
