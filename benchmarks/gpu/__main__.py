"""Every figure that needs a GPU, in one call: correctness first, then speed, memory, whole runs, the feed.

    python -m benchmarks.gpu --out DIR [--minutes 9] [--parts machine,losses,...] [--tiny]

Parts run one after another, the most important first, each in a process of its own and within its share of the time.
Rows are written as they come, to DIR/PART.jsonl, and a table of all to DIR/results.md. A part that dies goes on behind
the case it died at. --tiny: small shapes, for a rehearsal on a CPU.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.gpu.recording import rows

PARTS = {"machine": 0.06, "attention": 0.1, "losses": 0.26, "steps": 0.62, "runs": 0.68, "saving": 0.45, "feed": 1.0}
"""Parts in order, with the largest share of the time left that each may take."""
SAMPLES = {"vision": 512, "speech": 330, "text": 340}
TINY_SAMPLES = {"vision": 36, "speech": 36, "text": 36}


def child(part: str, out: Path, folder: Path, tiny: bool) -> None:
    """Run one part in this process."""
    from benchmarks.gpu.recording import Recorder

    if part == "shards":
        from benchmarks.gpu.inputs import make_shards

        return make_shards(folder, TINY_SAMPLES if tiny else SAMPLES)  # type: ignore[arg-type]
    record = Recorder(out, part)
    if part in ("runs", "feed"):
        from benchmarks.gpu import whole

        return whole.runs(record, folder, tiny) if part == "runs" else whole.feed(record, folder, tiny)
    from pretrain.engine import distributed

    device = distributed.start()
    from benchmarks.gpu import attention, losses, machine, steps, whole

    match part:
        case "machine":
            machine.measure(record, device, tiny)
        case "attention":
            attention.check(record, device, tiny)
            attention.speed(record, device, tiny)
        case "reference":
            losses.reference(folder, device, tiny)
        case "losses":
            losses.compare(record, folder, device, tiny)
        case "steps":
            steps.measure(record, folder, device, tiny)
        case "saving":
            whole.saving(record, folder, device, tiny)


def start(part: str, arguments: argparse.Namespace, folder: Path, **environment: str) -> subprocess.Popen:
    """Start one part as a process; its output goes to OUT/PART.log as well as to the screen's file."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        "--part",
        part,
        "--out",
        str(arguments.out),
        "--folder",
        str(folder),
    ]
    command += ["--tiny"] if arguments.tiny else []
    log = (arguments.out / f"{part}.log").open("a")
    return subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **environment}, start_new_session=True
    )


def write_table(out: Path) -> None:
    """Write all rows as one Markdown file."""
    lines = []
    for part in PARTS:
        lines.append(f"\n## {part}\n")
        for row in rows(out / f"{part}.jsonl"):
            figures = ", ".join(f"{name} {value}" for name, value in row.items() if name != "case")
            lines.append(f"- {row['case']}: {figures}")
    (out / "results.md").write_text("\n".join(lines) + "\n")


def main(arguments: argparse.Namespace) -> None:
    """Run the parts, and print where their results are."""
    end = time.monotonic() + 60 * arguments.minutes
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = start("shards", arguments, folder)
        wanted = [part for part in PARTS if not arguments.parts or part in arguments.parts.split(",")]
        reference: subprocess.Popen | None = None
        for part in wanted:
            if part != "machine":
                shards.wait()
            if part != "machine" and reference is None and "losses" in wanted:
                hidden = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
                reference = start("reference", arguments, folder, **hidden)
            left = end - time.monotonic()
            until = time.monotonic() + left * PARTS[part]
            print(f"{part}: at most {left * PARTS[part]:.0f} s of {left:.0f} s", flush=True)
            code = None
            while code != 0 and time.monotonic() < until:
                process = start(part, arguments, folder)
                try:
                    code = process.wait(max(1, until - time.monotonic()))
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    break
                if code and part not in ("losses", "steps"):
                    break
                if code:
                    time.sleep(1)
            print(f"{part}: code {code}", flush=True)
            write_table(arguments.out)
        if reference is not None:
            os.killpg(reference.pid, signal.SIGKILL) if reference.poll() is None else None
    print((arguments.out / "results.md").read_text())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--parts", default="", help="names of parts, separated by commas; all without it")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        child(given.part, given.out, given.folder, given.tiny)
    else:
        main(given)
