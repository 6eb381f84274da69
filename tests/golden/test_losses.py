"""Losses of 20 steps of every modality and of the mixture, pinned in losses.json.

Equal to the last bit if the fingerprint of the machine is the file's, else within TOLERANCE. A change that is meant to
change numerics rewrites the file, which then shows in the change:

    DATA2VEC_GOLDEN=write ./run.sh test tests/golden
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.made_up import KINDS
from tests.integration.processes import ENVIRONMENT, ROOT

pytestmark = pytest.mark.slow

FILE = Path(__file__).parent / "losses.json"
STRICT = {"MKL_CBWR": "AVX2,STRICT"}
"""MKL's sums then do not depend on the alignment of arrays in memory, which may differ from run to run."""
TOLERANCE = 2e-4
"""Relative. Plain, AVX2 and AVX-512 kernels, MKL held to SSE4 or AVX2, and two threads differ by 2e-5 at most."""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    worker = [sys.executable, "-m", "tests.golden.worker", str(tmp_path_factory.mktemp("golden"))]
    done = subprocess.run(worker, env={**ENVIRONMENT, **STRICT}, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout.splitlines()[-1])
    if os.environ.get("DATA2VEC_GOLDEN") == "write":
        FILE.write_text(json.dumps(result, indent=1) + "\n")
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_those_of_the_file(found, kind):
    golden = json.loads(FILE.read_text())
    expected, losses = golden["losses"][kind], found["losses"][kind]
    assert losses == pytest.approx(expected, rel=TOLERANCE)
    if found["fingerprint"] == golden["fingerprint"]:
        assert losses == expected, "within the tolerance, but not to the last bit on this machine"
