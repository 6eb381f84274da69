"""`./run.sh pretrain` whose ranks are `tests.integration.planted`."""

from __future__ import annotations

import sys

from pretrain import launch

if __name__ == "__main__":
    launch.MODULE = [*launch.MODULE[:-1], "tests.integration.planted", *sys.argv[1:4]]
    sys.exit(launch.main(sys.argv[4:]))
