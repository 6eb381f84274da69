"""No screen stands still for over 5 s: commands on a pseudo-terminal, with slow stages planted in them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.data_shards.shard_tools import make_shards
from tests.integration.processes import ENVIRONMENT, ROOT
from tests.integration.slow import SLOW_S

MOST_S = 5.0
IMPORTS = "import configs.compose, data_shards.making.build"
"""What commands import before they can show anything: a second, and more on a machine that does much else."""
RANKS = (
    "start", "pretrain.assemble:open_loader", "pretrain.evaluation.probing:labelled_samples",
    "pretrain.engine.engine:Engine.step", "pretrain.checkpoints.snapshot:write_partitions",
)  # fmt: skip
COMMANDS: dict[str, tuple[str, ...]] = {
    "pretrain.launch": ("pretrain.launching.input_files:check_input_files",),
    "pretrain.probe": (
        "data_shards.shards.held_out:check_held_out", "pretrain.checkpoints.reading:load_weights",
        "pretrain.evaluation.probing:features", "pretrain.evaluation.probing:linear_top1",
    ),
    "build": (
        "data_shards.making.build:plan_shards", "data_shards.sources.texts:train_tokenizer",
        "data_shards.making.build:_write_planned",
    ),
    "validate": ("data_shards.making.validate:local_shards", "data_shards.making.validate:_check_shard"),
    "bench": (
        "data_shards.loading.bench:load_index", "data_shards.loading.bench:_measure",
        "data_shards.loading.bench:ModalityLoader",
    ),
    "info": ("data_shards.making.info:load_index", "data_shards.making.contents:_look"),
    "show": ("data_shards.showing.show:load_index", "data_shards.showing.cards:decode"),
}  # fmt: skip
"""Functions of each command that are slow."""


@dataclass
class Screen:
    """What a command showed, and when it stood still."""

    code: int
    text: str
    start_s: float
    """Time until something is shown."""
    still_s: float
    """The longest time without a change after that."""
    before: str
    """What was on the screen then."""


def watch(command: list[str], environment: dict[str, str]) -> Screen:
    """Run a command on a pseudo-terminal of 100 columns to its end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = subprocess.Popen(
        command, env=environment, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    begin = time.monotonic()
    text = os.read(ours, 1 << 16)
    last = time.monotonic()
    start, still, before = last - begin, 0.0, b""
    with contextlib.suppress(OSError):  # all that held the terminal have ended
        while data := os.read(ours, 1 << 16):
            still, before = max((still, before), (time.monotonic() - last, text[-200:]))
            text, last = text + data, time.monotonic()
    code = process.wait()
    os.close(ours)
    still, before = max((still, before), (time.monotonic() - last, text[-200:]))
    return Screen(code, text.decode("utf-8", "replace"), start, still, before.decode("utf-8", "replace"))


def run(module: str, name: str, folder: Path, *arguments: str) -> tuple[Screen, set[str]]:
    """Screen of a slow command, and the slow functions that were called."""
    called = folder / f"called_{name}"
    environment = {**ENVIRONMENT, "SLOW_CALLED": str(called), "SLOW_RANKS": ",".join(RANKS)}
    command = [sys.executable, "-m", "tests.integration.slow", module, ",".join(COMMANDS[name]), *arguments]
    return watch(command, environment), set(called.read_text().split())


@pytest.fixture(scope="module")
def screens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Screen, set[str]]]:
    """All commands; they mostly sleep, so they run at the same time."""
    folder = tmp_path_factory.mktemp("screens")
    train, test = make_shards(folder / "train", (24,)), make_shards(folder / "test", (12,), first_seed=100)
    (folder / "text.txt").write_text("one word, and another\n" * 50)

    def run_and_probe() -> dict[str, tuple[Screen, set[str]]]:
        keys = [
            "recipe=demo", "demo=false", f"data.shards={train}", f"run.dir={folder}/run", "train.steps=3",
            "batch.global=8", "batch.micro=8", "launch.ranks=1", "data.workers=1", "checkpoint.every=0",
            f"probe.train_shards={train}", f"probe.test_shards={test}",
        ]  # fmt: skip
        keys[2] = f"data.shards={make_shards(folder / 'own', (24,), first_seed=500)}"
        first = run("pretrain.launch", "pretrain.launch", folder, *keys)
        return {
            "pretrain.launch": first,
            "pretrain.probe": run("pretrain.probe", "pretrain.probe", folder, f"run={folder}/run"),
        }

    shards = {
        "build": [
            "source=textfiles", f"input={folder}/text.txt", "documents=lines", f"output={folder}/text", "workers=1",
            "vocab_size=300",
        ],
        "validate": [f"shards={train}", "workers=1"],
        "bench": [f"shards={train}", "seconds=0.1", "workers=1", "batch=8"],
        "info": [f"shards={train}"],
        "show": [f"shards={train}", f"out={folder}/a.html", "n=3"],
    }  # fmt: skip
    with ThreadPoolExecutor(3) as pool:
        both = pool.submit(run_and_probe)
        found = {name: pool.submit(run, "data_shards", name, folder, name, *keys) for name, keys in shards.items()}
        return {**both.result(), **{name: future.result() for name, future in found.items()}}


@pytest.fixture(scope="module")
def import_s() -> float:
    """How long the imports take now."""
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", IMPORTS], env=ENVIRONMENT, cwd=ROOT, check=True)
    return time.monotonic() - begin


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_no_screen_stands_still(import_s: float, screens: dict[str, tuple[Screen, set[str]]], name: str) -> None:
    screen, called = screens[name]
    assert screen.code == 0, screen.text[-3000:]
    wanted = {*COMMANDS[name], *(RANKS if name == "pretrain.launch" else ())}
    assert called == wanted, wanted - called  # or the test would mean nothing
    assert screen.start_s <= max(MOST_S, 4 * import_s)
    assert MOST_S < SLOW_S and screen.still_s <= MOST_S, f"{screen.still_s:.1f} s after {screen.before!r}"
