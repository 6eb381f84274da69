"""What continued pretraining keeps and gains: probes on the old and the new data, before and after the new.

    python -m benchmarks.continued --old SHARDS HELD_OUT --new SHARDS HELD_OUT --modality speech [--seeds 0 1 2]

For each seed: the neutral recipe on the old data, then the recipe MODALITY_continued on the new. Linear probes and k-NN
are of the teacher. A run that is complete is only read.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from pathlib import Path

from benchmarks.demos import ROOT, run

Accuracy = tuple[float, float]
"""Of k-NN and of the linear probe."""


def probe(folder: Path, shards: list[str]) -> Accuracy:
    """The teacher's accuracies on other labelled shards than the run's own."""
    command = [str(ROOT / "run.sh"), "probe", f"run={folder}", f"train_shards={shards[0]}", f"test_shards={shards[1]}"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"^teacher at step .*  ([0-9.]+)  +([0-9.]+)$", said, re.MULTILINE)
    assert found, said
    return float(found[1]), float(found[2])


def keys(shards: list[str]) -> list[str]:
    """Overrides of a run on these shards."""
    return [f"data.shards={shards[0]}", f"probe.train_shards={shards[0]}", f"probe.test_shards={shards[1]}"]


def cells(before: Accuracy, after: Accuracy) -> list[str]:
    """k-NN and linear probe, each before and after."""
    return [f"{value:.3f}" for pair in zip(before, after, strict=True) for value in pair]


def main() -> None:
    """Run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", nargs=2, required=True)
    parser.add_argument("--new", nargs=2, required=True)
    parser.add_argument("--modality", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", nargs=2, type=int, default=[500, 300], help="of the first run, of the continued one")
    parser.add_argument("--runs", type=Path, default=Path("runs/continued"))
    parser.add_argument("overrides", nargs="*", help="of the continued run")
    given = parser.parse_args()
    names = [
        f"{data}: {figure}" for data in ("old", "new") for figure in ("20-NN before", "after", "linear before", "after")
    ]
    print(f"| seed | {' | '.join(names)} |")
    print("|---|---|---|---|---|---|---|---|---|")
    for seed in given.seeds:
        first, second = (given.runs / f"{given.modality}_{seed}{name}" for name in ("", "_continued"))
        _, old, _ = run(given.modality, seed, first, [*keys(given.old), f"train.steps={given.steps[0]}"])
        recipe = [f"recipe={given.modality}_continued", f"init={first.resolve()}", f"train.steps={given.steps[1]}"]
        start, end, _ = run(given.modality, seed, second, [*recipe, *keys(given.new), *given.overrides])
        row = cells((old["knn_top1"], old["linear_top1"]), probe(second, given.old))
        row += cells(*((figures["knn_top1"], figures["linear_top1"]) for figures in (start, end)))
        print(f"| {seed} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
