"""What runs leave behind, compared."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import torch

from pretrain.checkpoints.reading import load_weights

# What may differ between two runs of the same steps: clocks and memory.
CLOCKS = {
    "samples_per_s", "tokens_per_s", "tflops", "mfu", "data_wait", "data_wait_share", "read_ms", "decode_ms",
    "batch_ms", "read_mb_per_s", "step_s", "memory_gib",
}  # fmt: skip


def rows(run: Path) -> list[dict]:
    """The rows of metrics so far, without clocks."""
    file = run / "metrics.jsonl"
    found = []
    for line in file.read_text().splitlines() if file.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):  # half written
            found.append({key: value for key, value in json.loads(line).items() if key not in CLOCKS})
    return found


def assert_same_run(one: Path, other: Path) -> None:
    """Rows and weights, to the last bit."""
    assert rows(one) == rows(other)
    for weights in ("teacher", "student"):
        ours, theirs = load_weights(one, weights)[0], load_weights(other, weights)[0]
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
