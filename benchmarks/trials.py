"""Probes before and after many short runs, several at once: a search among settings, on one machine.

    python -m benchmarks.trials --file TRIALS --out DIR [--at-once 8] [--minutes 8] [key=value ...]

TRIALS has a line a trial, `NAME key=value ...`; a line `@ key=value ...` holds keys of all trials behind it, until the
next such line. Each trial is one run through the launcher in one process. Rows are written as they come, to
DIR/trials.jsonl; a trial that has a row is not run again. What runs when the time is over is killed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from pretrain.reporting.metrics_file import read_rows


def read_trials(text: str) -> dict[str, list[str]]:
    """Return the overrides of each trial by its name. Raises ValueError for a name that stands twice."""
    trials: dict[str, list[str]] = {}
    common: list[str] = []
    for line in text.splitlines():
        name, *keys = shlex.split(line, comments=True) or [""]
        if name == "@":
            common = keys
        elif name in trials:
            raise ValueError(f"two trials are called {name}")
        elif name:
            trials[name] = [*common, *keys]
    return trials


def _run(name: str, keys: list[str], out: Path, end: float) -> dict[str, object]:
    """Run a trial and return its row."""
    start, run = time.monotonic(), out / "runs" / name
    command = [sys.executable, "-m", "pretrain.launch", *keys, f"run.dir={run}", "log.progress=false", "launch.ranks=1"]
    with (out / f"{name}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(max(1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code = -9
    rows = read_rows(run / "metrics.jsonl") if (run / "metrics.jsonl").exists() else []
    probes = [row for row in rows if "knn_top1" in row]
    row = {"name": name, "code": code, "seconds": round(time.monotonic() - start, 1), "keys": keys}
    if len(probes) > 1:
        figures = ("knn_top1", "linear_top1", "baseline_knn_top1", "baseline_linear_top1")
        row |= {"steps": probes[-1]["step"]}
        row |= {f"{when}_{key}": round(float(probe[key]), 4) for when, probe in
                (("before", probes[0]), ("after", probes[-1])) for key in figures if key in probe}  # fmt: skip
    elif code:
        row["text"] = (out / f"{name}.log").read_text()[-600:]
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    return row


def main() -> None:
    """Run the trials and print their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    end, lock = time.monotonic() + 60 * options.minutes, Lock()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "trials.jsonl"
    done = {json.loads(line)["name"] for line in file.read_text().splitlines()} if file.exists() else set()

    def one(trial: tuple[str, list[str]]) -> None:
        if time.monotonic() > end:
            return print(f"{trial[0]}: no time left", flush=True)
        row = _run(*trial, options.out, end)
        with lock:
            with file.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            print(json.dumps({key: value for key, value in row.items() if key != "keys"}), flush=True)

    trials = read_trials(options.file.read_text())
    with ThreadPoolExecutor(options.at_once) as pool:
        list(pool.map(one, [(name, [*keys, *options.overrides]) for name, keys in trials.items() if name not in done]))


if __name__ == "__main__":
    main()
