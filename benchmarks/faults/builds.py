"""Faults of builds: killed ones, other inputs, damaged source files and shards."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path

from benchmarks.faults.arena import Arena, Command, Trial, build, content, flip
from data_shards.shards.index_file import read_folder_index
from pretrain.launching.exits import DONE, FAILED, MISTAKE, STOPPED
from tests.integration.processes import signal_all


def killed_build(arena: Arena, trial: Trial, folder: Path, dice: random.Random) -> None:
    """A build killed at a random moment; the same command gives the bytes of an undisturbed one."""
    kind = dice.choice(["vision", "speech"])
    source = {"vision": "imagefolder", "speech": "audiofolder"}[kind]
    files, output = arena.data[kind] / "input", folder / "out"
    command = build(trial, source, files, output)
    time.sleep(dice.uniform(0.5, 4))
    number = dice.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    signal_all(command.everything(), number)
    command.end(DONE, FAILED, STOPPED, 130, -number, 128 + number)
    build(trial, source, files, output).end(DONE)
    names = {name: digest for name, digest in content(output).items() if name.endswith((".tar", ".json"))}
    wanted = content(arena.data[kind] / "shards")
    trial.expect(all(wanted[name] == names.get(name) for name in wanted if name.endswith(".tar")), "lost: other shards")


def another_input(arena: Arena, trial: Trial, folder: Path, dice: random.Random) -> None:
    """Another input into the same output and name: refused, naming both; the shards stay."""
    shards = arena.shards(folder)
    files = folder / "other"
    shutil.copytree(arena.data["vision"] / "input/vertical", files / "vertical")
    before = content(shards)
    said = build(trial, "imagefolder", files, shards).end(MISTAKE)
    trial.expect(before == content(shards), "lost: the earlier shards were changed")
    trial.expect(str(files) in said and "overwrite=true" in said, "silent: no remedy", said)


def damaged_sources(arena: Arena, trial: Trial, folder: Path, dice: random.Random) -> None:
    """Some source files cut, zeroed or replaced by noise: left out by name, all others in the shards."""
    kind = dice.choice(["vision", "speech"])
    source = {"vision": "imagefolder", "speech": "audiofolder"}[kind]
    files, output = Path(shutil.copytree(arena.data[kind] / "input", folder / "files")), folder / "out"
    paths = sorted(path for path in files.rglob("*.*") if path.is_file())
    damaged = dice.sample(paths, dice.randrange(1, 6))
    for path in damaged:
        size = path.stat().st_size
        match dice.randrange(3):
            case 0:
                path.write_bytes(path.read_bytes()[: size // 3])
            case 1:
                path.write_bytes(b"\0" * size)
            case _:
                path.write_bytes(dice.randbytes(size))
    more = ["min_seconds=0.1"] if kind == "speech" else []
    said = build(trial, source, files, output, *more).end(DONE)
    built = sum(shard.nsamples for shard in read_folder_index(output).shards) if trial.codes[-1] == DONE else 0
    listed = (output / ".build/train/left_out.tsv").read_text() if trial.codes[-1] == DONE else ""
    trial.expect(built + len(listed.splitlines()) >= len(paths), f"lost: {len(paths)} files, {built} samples", said)
    named = sum(path.name in listed for path in damaged)
    cut_audio = kind == "speech"  # a shorter recording may be a sound one
    trial.expect(cut_audio or named == len(damaged), f"silent: {named} of {len(damaged)} named", said)
    sound = [path for path in paths if path not in damaged]
    trial.expect(not any(path.name in listed for path in sound), "lost: a sound file left out", listed)


def damaged_documents(arena: Arena, trial: Trial, folder: Path, dice: random.Random) -> None:
    """Lines of noise, half an emoji and deep nesting between documents: left out with file and line."""
    lines = (arena.data["text"] / "input/texts.jsonl").read_bytes().splitlines()
    odd = [b'{"text": "a \\ud83d b"}', b"[" * 5000, dice.randbytes(80).replace(b"\n", b" "), b'{"text": 7}', b'{"text"']
    chosen = dice.sample(odd, dice.randrange(1, len(odd) + 1))
    places = [dice.randrange(len(lines)) for _ in chosen]
    for place, line in sorted(zip(places, chosen, strict=True), reverse=True):
        lines.insert(place, line)
    files, output = folder / "files", folder / "out"
    files.mkdir()
    (files / "texts.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    said = build(trial, "jsonl", files, output, "vocab_size=300", "max_tokens=16").end(DONE)
    listed = (output / ".build/train/left_out.tsv").read_text() if trial.codes[-1] == DONE else ""
    trial.expect(len(listed.splitlines()) == len(chosen), f"silent: {len(chosen)} damaged, listed: {listed}", said)


def damaged_shards(arena: Arena, trial: Trial, folder: Path, dice: random.Random) -> None:
    """One bit flipped in any file of a folder of shards: `validate deep` names the file."""
    kind = dice.choice(["vision", "speech", "text"])
    shards = Path(shutil.copytree(arena.data[kind] / "shards", folder / "shards"))
    files = [path for path in shards.rglob("*") if path.is_file() and ".build" not in path.parts]
    victim = dice.choice([path for path in files if path.stat().st_size])  # the lock is empty
    flip(victim, dice)
    said = Command(trial, "data_shards", "validate", f"shards={shards}", "deep=true").end(FAILED, MISTAKE)
    trial.expect(victim.name in said or trial.codes[-1] == MISTAKE, f"silent: {victim.name} is not named", said)
