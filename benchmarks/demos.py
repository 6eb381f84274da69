"""Accuracy of the demos, or of data of one's own: the trained teacher's features, the untrained network's, a baseline.

    python -m benchmarks.demos [--modalities vision speech text] [--seeds 0 1 2] [--runs runs/demos] [key=value ...]
    python -m benchmarks.demos --modalities vision -- data.shards=A probe.train_shards=A probe.test_shards=B

Each run is `./run.sh pretrain modality=M train.seed=S run.dir=RUNS/M_S key=value ...`. A run that is complete is only
read.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from pathlib import Path
from typing import Any

from pretrain.reporting.metrics_file import read_rows

ROOT = Path(__file__).resolve().parents[1]


def run(modality: str, seed: int, folder: Path, overrides: list[str]) -> tuple[dict[str, Any], dict[str, Any], float]:
    """The first and the last probe of a run, and its duration in seconds."""
    start = time.perf_counter()
    command = [str(ROOT / "run.sh"), "pretrain", f"modality={modality}", f"train.seed={seed}", f"run.dir={folder}"]
    subprocess.run([*command, "log.progress=false", *overrides], check=True)
    probes = [row for row in read_rows(folder / "metrics.jsonl") if "knn_top1" in row]
    return probes[0], probes[-1], time.perf_counter() - start


def line(modality: str, seed: int, first: dict[str, Any], last: dict[str, Any], seconds: float) -> str:
    """A row of the table."""
    figures = [f"{row[key]:.3f}" for key in ("knn_top1", "linear_top1") for row in (first, last)]
    baseline = [f"{last[f'baseline_{key}_top1']:.3f}" for key in ("knn", "linear")]
    cells = [modality, seed, last["step"], *figures[:2], baseline[0], *figures[2:], baseline[1], f"{seconds:.0f}"]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Run the demos and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modalities", nargs="+", default=["vision", "speech", "text"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/demos"))
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    lines = [
        "| demo | seed | steps | k-NN: untrained | teacher | baseline | linear: untrained | teacher | baseline | s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for modality in options.modalities:
        for seed in options.seeds:
            result = run(modality, seed, options.runs / f"{modality}_{seed}", options.overrides)
            lines.append(line(modality, seed, *result))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
