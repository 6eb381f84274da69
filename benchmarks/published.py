"""Three fp32 steps of each published Base recipe of data2vec 2.0, with all its masks, on two ranks: loss and memory.

    python -m benchmarks.published [--runs runs/published] [--recipes NAME ...] [--steps 3]

Made-up samples (`benchmarks.gpu.inputs`), a batch of two samples, one a rank; everything else is the recipe's. The peak
is a rank's resident memory, torch and the loader's process beside it included; the estimate is the table's, without
them.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from pathlib import Path

from benchmarks.demos import ROOT
from benchmarks.gpu.inputs import make_shards
from pretrain.reporting.metrics_file import read_rows

RECIPES = ["vision_base_imagenet_v2", "speech_base_librispeech_v2", "text_base_books_wikipedia_v2"]


def measure(recipe: str, runs: Path, steps: int) -> str:
    """Return a row of the table."""
    modality, folder = recipe.split("_")[0], runs / recipe
    keys = [
        f"recipe={recipe}", f"data.shards={runs}/shards/{modality}", f"run.dir={folder}", f"train.steps={steps}",
        "batch.global=2", "batch.micro=1", "batch.micro_tokens=null", "batch.equal=samples", "data.lanes=2",
        "data.workers=1", "data=small", "launch.ranks=2", "precision=fp32", "schedule.warmup=0", "log.every=1",
        "checkpoint.every=0", "log.progress=false", "guard.collapse=off",
    ]  # fmt: skip
    done = subprocess.run([str(ROOT / "run.sh"), "pretrain", *keys], check=True, capture_output=True, text=True)
    found = re.search(r"^memory +about ([0-9.]+ \w+) a rank", done.stdout + done.stderr, re.MULTILINE)
    rows = [row for row in read_rows(folder / "metrics.jsonl") if "loss" in row]
    losses = ", ".join(f"{row['loss']:.4f}" for row in rows)
    peak = max(row["memory_gib"] for row in rows)
    cells = [recipe, losses, f"{peak:.2f} GiB", found[1] if found else "?", f"{rows[-1]['step_s']:.0f} s"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run the recipes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/published"))
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    make_shards(options.runs / "shards", {"vision": 8, "speech": 8, "text": 8})
    lines = ["| recipe | losses | peak of a rank | estimate | last step |", "|---|---|---|---|---|"]
    lines += [measure(recipe, options.runs.resolve(), options.steps) for recipe in options.recipes]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
