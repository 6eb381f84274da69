"""Cost of a probe accuracy with data2vec and with data2vec 2.0, on the image demo's data with the image demo's network.

    python -m benchmarks.objectives [--seeds 0 1 2] [--runs runs/objectives] [--v1 1200 2400] [--v2 100 200 400 1000]

Each objective has the best settings that were found for it in a small search (docs/experiments.md): data2vec patches of
7 pixels and 2400 steps of 64 images, data2vec 2.0 the demo's. A run stops at each given step, is probed, and goes on.
Seconds are those of its steps alone, without starts, probes and checkpoints; with one thread a rank, CPU seconds are
the ranks times as many.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

from benchmarks.demos import ROOT
from pretrain.reporting.metrics_file import read_rows

KEYS = {
    "v1": [
        "objective=v1", "vision.patch_size=7", "vision.mask.min_block=1", "batch.global=64", "optimizer.lr=6e-3",
        "optimizer.betas=[0.9,0.999]", "optimizer.clip=3", "teacher.decay_end=0.998", "teacher.decay_steps=800",
        "schedule.steps=2400", "schedule.warmup=100", "schedule.lr_end=1e-5",
    ],
    "v2": [],
}  # fmt: skip
"""Keys of each objective beside `recipe=demo`. Those of v1 were the demo's before it trained data2vec 2.0."""


def measure(objective: str, seed: int, stops: list[int], folder: Path) -> list[str]:
    """Return a row of the table for each stop."""
    lines = []
    for stop in stops:
        given = [f"train.steps={stop}", f"train.seed={seed}", f"run.dir={folder}", "log.every=10", "log.progress=false"]
        command = [str(ROOT / "run.sh"), "pretrain", "recipe=demo", *KEYS[objective], *given]
        subprocess.run(command, check=True)
        rows = [row for row in read_rows(folder / "metrics.jsonl") if row["step"] <= stop]
        last = [row for row in rows if "knn_top1" in row][-1]
        seconds = sum(10 * row["step_s"] for row in rows if "step_s" in row)
        cells = [objective, seed, stop, f"{seconds:.0f}", f"{last['knn_top1']:.3f}", f"{last['linear_top1']:.3f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def main() -> None:
    """Run both objectives and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/objectives"))
    parser.add_argument("--v1", nargs="*", type=int, default=[1200, 2400])
    parser.add_argument("--v2", nargs="*", type=int, default=[100, 200, 400, 1000])
    options = parser.parse_args()
    lines = ["| objective | seed | steps | s of steps | 20-NN | linear |", "|---|---|---|---|---|---|"]
    for seed in options.seeds:
        for objective, stops in (("v1", options.v1), ("v2", options.v2)):
            lines += measure(objective, seed, stops, options.runs / f"{objective}_{seed}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
