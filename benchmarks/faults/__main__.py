"""Random faults against runs and builds: how many are lost, silent, or end with a wrong exit code.

    python -m benchmarks.faults [--minutes 30] [--seed 0] [--only NAME] [--out FILE.json]

A trial starts the commands that users start (two gloo ranks, real tars), plants one fault from a seeded draw, and takes
it away again where the user would. Four things count as problems: `lost` (files, samples, rows or weights differ from
an undisturbed run), `silent` (no line names the damage), `code` (an exit code that docs/reliability.md does not give),
and `traceback`. Prints a row per kind of fault; exit code 1 if any trial had a problem.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.faults import builds, runs
from benchmarks.faults.arena import Arena, Fault, Trial

FAULTS: dict[str, tuple[Fault, int]] = {
    "signal": (runs.signal_at_a_random_moment, 5),
    "checkpoint": (runs.damaged_checkpoint, 3),
    "moved": (runs.newest_checkpoint_moved_away, 1),
    "cache": (runs.cache_among_own_files, 1),
    "outage": (runs.outage, 2),
    "index": (runs.flipped_sidecar_or_index, 3),
    "sample": (runs.damaged_sample, 1),
    "value": (runs.wrong_value, 2),
    "ranks": (runs.ranks_that_differ, 1),
    "held out": (runs.held_out_samples_in_training, 1),
    "credentials": (runs.credentials, 1),
    "leftovers": (runs.leftovers, 2),
    "killed build": (builds.killed_build, 3),
    "another input": (builds.another_input, 1),
    "sources": (builds.damaged_sources, 3),
    "documents": (builds.damaged_documents, 2),
    "shards": (builds.damaged_shards, 4),
}
"""Faults by name, and how often each is drawn relative to the others."""


def attack(arena: Arena, name: str, seed: int) -> Trial:
    """One trial, in a folder that is removed if nothing went wrong."""
    trial, folder = Trial(name, seed), arena.root / f"trial_{seed}"
    folder.mkdir()
    begin = time.monotonic()
    try:
        FAULTS[name][0](arena, trial, folder, random.Random(seed))
    except Exception as error:  # a fault of the trial itself must be seen, and must not end the hour
        trial.problems.append(f"trial: {type(error).__name__}: {error}")
    trial.seconds = time.monotonic() - begin
    if not trial.problems:
        shutil.rmtree(folder)
    return trial


def summary(trials: list[Trial]) -> list[str]:
    """A Markdown table: trials, commands and problems by kind of fault."""
    lines = ["| fault | trials | commands | exit codes | lost | silent | wrong code | traceback |", "|" + "---|" * 8]
    for name in [*FAULTS, "all"]:
        some = [trial for trial in trials if name in (trial.kind, "all")]
        codes = collections.Counter(code for trial in some for code in trial.codes)
        found = [sum(problem.startswith(kind) for trial in some for problem in trial.problems)
                 for kind in ("lost", "silent", "code", "traceback")]  # fmt: skip
        text = ", ".join(f"{code}: {count}" for code, count in sorted(codes.items()))
        lines.append(f"| {name} | {len(some)} | {codes.total()} | {text} | " + " | ".join(map(str, found)) + " |")
    return lines


def main() -> None:
    """Attack for so many minutes, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=FAULTS)
    parser.add_argument("--out", type=Path, help="a JSON object per trial")
    given = parser.parse_args()
    dice, names, weights = random.Random(given.seed), list(FAULTS), [weight for _, weight in FAULTS.values()]
    arena = Arena(Path(tempfile.mkdtemp(prefix="faults_")))
    trials: list[Trial] = []
    end = time.monotonic() + 60 * given.minutes
    while time.monotonic() < end:
        name = given.only or dice.choices(names, weights)[0]
        trials.append(attack(arena, name, given.seed * 100_000 + len(trials)))
        last = trials[-1]
        print(f"{last.kind} {last.seed}: {last.codes} {last.seconds:.0f} s {last.problems or ''}", flush=True)
        if given.out:
            given.out.write_text("".join(json.dumps(asdict(trial)) + "\n" for trial in trials))
    print("\n".join(summary(trials)))
    failed = any(trial.problems for trial in trials)
    if failed:
        print(f"what the trials with problems left is in {arena.root}")
    else:
        shutil.rmtree(arena.root)
    sys.exit(failed)


if __name__ == "__main__":
    main()
