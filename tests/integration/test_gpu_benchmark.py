"""The benchmark that needs a GPU, rehearsed on a CPU with small shapes, so that it does not fail when there is one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.integration.processes import ENVIRONMENT, ROOT

pytestmark = pytest.mark.slow
PARTS = ("machine", "losses", "steps", "saving", "feed")


def test_every_part_gives_its_rows(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--minutes", "5", "--parts", ",".join(PARTS)]
    done = subprocess.run([*command, "--out", str(tmp_path)], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = {part: [json.loads(line) for line in (tmp_path / f"{part}.jsonl").open()] for part in PARTS}
    failed = [row["case"] for part in PARTS for row in rows[part] if "failed" in row]
    assert failed == []
    losses = {row["case"]: row for row in rows["losses"]}
    assert losses["text v2: fp32"]["loss"] == 0 and 0 < losses["vision: bf16"]["loss"] < 1e-3
    assert losses["vision: bf16, ZeRO 3"]["loss"] < 1e-3
    assert {row["case"] for row in rows["steps"]} >= {"images Base", "images Base v2"}
    assert "images Base" in (tmp_path / "results.md").read_text()
