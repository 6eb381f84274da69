"""Memory and time to decode one sample are bounded by keys: `vision.max_pixels`, `speech.max_recording_seconds`.

The worst inputs that these allow are decoded under limits of the operating system.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REFUSED = {"a million scans", "large tile", "too large", "too long"}


@pytest.fixture(scope="module")
def outcomes():
    worker = Path(__file__).with_name("bounds_worker.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(worker.parents[2])}
    done = subprocess.run([sys.executable, worker], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return dict(line.split("\t") for line in done.stdout.splitlines())


def test_the_worst_legal_inputs_are_decoded_within_the_keys(outcomes):
    assert len(outcomes) == 19
    assert {name: told for name, told in outcomes.items() if name not in REFUSED and told != "used"} == {}


def test_what_is_beyond_a_key_is_refused_before_it_takes_memory(outcomes):
    assert {name for name in REFUSED if not outcomes[name].startswith("refused: ")} == set()
    assert "vision.max_pixels=4000000" in outcomes["large tile"] and "vision.max_pixels" in outcomes["too large"]
    assert "scans, more than 100" in outcomes["a million scans"]
    assert "speech.max_recording_seconds: 300.0 s long" in outcomes["too long"]
