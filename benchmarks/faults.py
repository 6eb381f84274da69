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
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from data_shards.shards.index_file import read_folder_index
from pretrain.checkpoints.folders import checkpoint_folders
from pretrain.launching.exits import DONE, FAILED, MISTAKE, STALLED, STOPPED
from pretrain.launching.plan import free_port
from tests.data_shards.http_store import serve
from tests.integration.made_up import tiny
from tests.integration.processes import ENVIRONMENT, ROOT, session_processes, signal_all
from tests.integration.real_shards import build_shards
from tests.integration.runs import assert_same_run, rows

STEPS = 15
LIMIT_S = 240.0  # a command that takes longer stands still


@dataclass
class Trial:
    """What one fault did."""

    kind: str
    seed: int
    codes: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def expect(self, holds: bool, problem: str, said: str = "") -> None:
        """Note a problem, with the end of what the command said, unless `holds`."""
        if not holds:
            self.problems.append(problem + (f"; it said: {said[-600:]}" if said else ""))


class Command:
    """A command of ours in a session of its own, its output in a file."""

    def __init__(self, trial: Trial, *arguments: str) -> None:
        self.trial, self.arguments, self.began = trial, arguments, time.time()
        self._log = tempfile.TemporaryFile("w+b")  # noqa: SIM115 open as long as the command
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=ROOT, env=ENVIRONMENT, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
        )  # fmt: skip

    def said(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def everything(self) -> list[psutil.Process]:
        return session_processes(self.process.pid)

    def wait_for(self, condition: Callable[[], object]) -> bool:
        """Wait until the condition holds; False if the command ended first."""
        end = time.monotonic() + LIMIT_S
        while not condition():
            if self.process.poll() is not None or time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def end(self, *allowed: int) -> str:
        """Wait for its end, judge its exit code, and return what it said."""
        try:
            code = self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            self.trial.problems.append(f"code: still there after {LIMIT_S:.0f} s; it said: {self.said()[-600:]}")
            signal_all(self.everything(), signal.SIGKILL)
            code = self.process.wait()
        self.trial.codes.append(code)
        said = self.said()
        self.trial.expect(code in allowed, f"code {code}, not {allowed}", said)
        self.trial.expect("Traceback (most recent call last)" not in said, "traceback", said)
        return said


def train(trial: Trial, shards: str, run: Path, *more: str) -> Command:
    """`./run.sh pretrain` on two ranks, a tiny network, a checkpoint every third step."""
    return Command(
        trial, "pretrain.launch", *tiny("vision", 16, 4), f"data.shards={shards}", f"run.dir={run}", "log.every=1",
        f"train.steps={STEPS}", "schedule.steps=100", "checkpoint.every=3", "checkpoint.keep=4", "precision=fp32",
        "data.workers=1", "launch.ranks=2", "deepspeed=zero1", *more,
    )  # fmt: skip


def build(trial: Trial, source: str, files: Path, output: Path, *more: str) -> Command:
    """`./run.sh shards build`."""
    return Command(
        trial, "data_shards", "build", f"source={source}", f"input={files}", f"output={output}", "workers=2", *more
    )


def flip(path: Path, dice: random.Random) -> None:
    """Flip one bit somewhere in a file."""
    data = bytearray(path.read_bytes())
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)


def content(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder, by its name."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class Arena:
    """Data, an undisturbed run on it, and an empty folder for each trial."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = {kind: root / kind for kind in ("vision", "speech", "text")}
        for kind, folder in self.data.items():
            folder.mkdir()
            build_shards(folder, kind)  # type: ignore[arg-type]
        self.undisturbed = root / "undisturbed"
        trial = Trial("undisturbed", 0)
        train(trial, f"{self.data['vision']}/shards", self.undisturbed).end(DONE)
        assert not trial.problems, trial.problems

    def shards(self, folder: Path) -> Path:
        """A copy of the shards of images that a trial may damage."""
        return Path(shutil.copytree(self.data["vision"] / "shards", folder / "shards"))

    def finish(self, trial: Trial, shards: str, run: Path, *more: str) -> str:
        """Start the same command until it is done, as the documented loop does; compare with the undisturbed run."""
        said = ""
        for _ in range(4):
            said = train(trial, shards, run, *more).end(DONE, STALLED)
            if trial.codes[-1] != STALLED:
                break
        try:
            assert_same_run(run, self.undisturbed)
        except (AssertionError, OSError, ValueError) as error:
            trial.problems.append(f"lost: another run than the undisturbed one: {str(error)[:300]}")
        return said


Fault = Callable[[Arena, Trial, Path, random.Random], None]


def signal_at_a_random_moment(arena: Arena, trial: Trial, folder: Path, dice: random.Random) -> None:
    """A notice, or kill -9 of some process, at any time from the start to the end; then the same command."""
    shards, run = f"{arena.data['vision']}/shards", folder / "run"
    command = train(trial, shards, run)
    if dice.random() < 0.75:
        command.wait_for(lambda: len(rows(run)) >= dice.randrange(1, STEPS - 2))
    time.sleep(dice.uniform(0, 3))
    number = dice.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
    processes = command.everything()
    everyone = dice.random() < 0.3
    signal_all(processes if everyone else [dice.choice(processes)] if processes else [], number)
    command.end(DONE, STOPPED, STALLED, -number)
    time.sleep(1)
    signal_all(command.everything(), signal.SIGKILL)  # what a machine that lost its power would not have, either
    arena.finish(trial, shards, run)


def damaged_checkpoint(arena: Arena, trial: Trial, folder: Path, dice: random.Random) -> None:
    """One to three files of checkpoints flipped, cut or removed, `latest` overwritten: each named, the run the same."""
    shards, run = f"{arena.data['vision']}/shards", folder / "run"
    train(trial, shards, run).end(DONE)
    places = checkpoint_folders(run / "checkpoints")
    broken = set()
    for _ in range(dice.randrange(1, 4)):
        place = dice.choice(places[1:])
        victim = dice.choice(sorted(place.iterdir()))
        broken.add(place)
        match dice.randrange(3):
            case 0:
                flip(victim, dice)
            case 1:
                victim.write_bytes(victim.read_bytes()[: dice.randrange(victim.stat().st_size)])
            case _:
                if len(list(place.iterdir())) > 1:
                    victim.unlink()
    if dice.random() < 0.5:
        (run / "checkpoints/latest").write_text(dice.choice(["step_99999999", "../../x_7", "", "\0", "step_00000003"]))
    said = arena.finish(trial, shards, run)
    if places[-1] in broken:
        trial.expect(str(places[-1]) in said or places[-1].name in said, "silent: the damaged checkpoint", said)


def newest_checkpoint_moved_away(arena: Arena, trial: Trial, folder: Path, dice: random.Random) -> None:
    """As the message about a collapse advises; the run goes on from the one before, to the same end."""
    shards, run = f"{arena.data['vision']}/shards", folder / "run"
    train(trial, shards, run).end(DONE)
    for place in checkpoint_folders(run / "checkpoints")[-dice.randrange(1, 3) :]:
        place.rename(folder / place.name)
    said = arena.finish(trial, shards, run)
    trial.expect("nothing to do" not in said, "silent: the run called complete", said)


def cache_among_own_files(arena: Arena, trial: Trial, folder: Path, dice: random.Random) -> None:
    """`data.cache_dir` is a folder with recordings, a repository and links of the user's own, and very small."""
    own, outside = folder / "own", folder / "outside"
    for name in ("en/a.wav", "de/b.wav", "ab/cd/ef", ".git/objects/0f/1234", "00/11.tar"):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_bytes(dice.randbytes(5000))
    outside.mkdir()
    (outside / "kept.bin").write_bytes(b"outside")
    (own / "fe").symlink_to(outside, target_is_directory=True)
    before = content(own), content(outside)
    with serve(arena.data["vision"] / "shards") as store:
        pattern = f"{store.url}/train-000000.tar"
        run = folder / "run"
        train(trial, pattern, run, f"data.cache_dir={own}", "data.cache_gb=0.00002").end(DONE)
    after = content(own), content(outside)
    trial.expect(before[0].items() <= after[0].items() and before[1] == after[1], "lost: files of the user")


def outage(arena: Arena, trial: Trial, folder: Path, dice: random.Random) -> None:
    """The store answers 404 to everything, or is gone, or the folder of the shards is: 76, and nothing replaced."""
    kind, run = dice.choice(["404", "refused", "refused", "unmounted"]), folder / "run"
    shards = arena.shards(folder)
    if kind == "unmounted":
        command = train(trial, str(shards), run, "data.workers=1", "train.steps=400", "checkpoint.every=50")
        command.wait_for(lambda: len(rows(run)) >= 2)
        shards.rename(folder / "away")
        said = command.end(STALLED, DONE)  # all of it may be in memory
    else:
        with serve(shards) as store:
            pattern = f"{store.url}/train-000000.tar"
            small = ["data.cache_gb=0.00002", f"data.cache_dir={folder}/cache", "data.read_ahead_mb=0"]
            command = train(trial, pattern, run, "train.steps=400", "checkpoint.every=50", "data.retries=1", *small)
            command.wait_for(lambda: len(rows(run)) >= 2)
            if kind == "404":
                store.folder = folder / "empty"
            else:
                store.shutdown()
                store.server_close()
            said = command.end(STALLED, DONE)
    taken = rows(run)
    replaced = max((row.get("bad_samples") or 0 for row in taken), default=0)
    trial.expect(replaced == 0, f"lost: {replaced} samples were replaced during an outage", said)


def flipped_sidecar_or_index(arena: Arena, trial: Trial, folder: Path, dice: random.Random) -> None:
    """A flipped bit in index.json or a sidecar: refused by name, or the same run as without it."""
    shards, run = arena.shards(folder), folder / "run"
    files = [path for path in shards.iterdir() if path.is_file() and path.suffix != ".tar"]
    victim, sound = dice.choice(files), None
    sound = victim.read_bytes()
    flip(victim, dice)
    said = train(trial, str(shards), run).end(DONE, MISTAKE, FAILED)
    if trial.codes[-1] == DONE:
        try:
            assert_same_run(run, arena.undisturbed)
        except AssertionError as error:
            trial.problems.append(f"silent: a flipped bit of {victim.name} changed the run: {str(error)[:200]}")
        return
    trial.expect(victim.name in said or str(shards) in said, f"silent: {victim.name} is not named", said)
    victim.write_bytes(sound)
    arena.finish(trial, str(shards), run)


def damaged_sample(arena: Arena, trial: Trial, folder: Path, dice: random.Random) -> None:
    """Bytes of a member overwritten in a tar: replaced, counted and named; `validate deep` names the tar."""
    shards, run = arena.shards(folder), folder / "run"
    tar = dice.choice(sorted(shards.glob("*.tar")))
    with tarfile.open(tar) as file:
        member = dice.choice([member for member in file if member.name.endswith(".jpg")])
    with tar.open("r+b") as file:
        file.seek(member.offset_data)
        file.write(b"\0" * member.size)
    said = train(trial, str(shards), run).end(DONE)
    seen = [row.get("bad_samples") or 0 for row in rows(run)]
    key = member.name.partition(".")[0]
    trial.expect(not max(seen, default=0) or key in said, f"silent: {key} was replaced and not named", said)
    said = Command(trial, "data_shards", "validate", f"shards={shards}", "deep=true").end(FAILED)
    trial.expect(tar.name in said, f"silent: validate does not name {tar.name}", said)


def wrong_value(arena: Arena, trial: Trial, folder: Path, dice: random.Random) -> None:
    """A value that no one means, for some key: one line and 2, before anything is made."""
    key = dice.choice(["optimizer.lr", "optimizer.eps", "optimizer.weight_decay", "train.steps", "batch.global",
                       "data.lanes", "vision.image_size", "teacher.decay", "schedule.warmup"])  # fmt: skip
    value = dice.choice(["nan", "inf", "-inf", "-1", "true", "[1,2]", "abc", "1e999", "{}", "''"])
    run = folder / "run"
    said = train(trial, f"{arena.data['vision']}/shards", run, f"{key}={value}").end(MISTAKE)
    trial.expect(said.count("\n") <= 6, "code: more than a few lines", said)
    trial.expect(not (run / "checkpoints").exists(), "lost: a run was begun")


def ranks_that_differ(arena: Arena, trial: Trial, folder: Path, dice: random.Random) -> None:
    """Two nodes with another value of one key: both end before the first step with 2 and name the key."""
    key, values = dice.choice([("optimizer.lr", "0.01 1.0"), ("train.seed", "0 1"), ("teacher.decay", "0.9 0.8")])
    common = ["cluster=manual", "cluster.nodes=2", "cluster.master=127.0.0.1", f"launch.port={free_port()}"]
    nodes = [
        train(trial, f"{arena.data['vision']}/shards", folder / "run", *common, "launch.ranks=1",
              f"cluster.node_rank={node}", f"{key}={value}")
        for node, value in enumerate(values.split())
    ]  # fmt: skip
    for node in nodes:
        said = node.end(MISTAKE)
        trial.expect(key in said and "do not agree" in said, f"silent: {key} is not named", said)
    trial.expect(not rows(folder / "run"), "lost: a step was taken")


def held_out_samples_in_training(arena: Arena, trial: Trial, folder: Path, dice: random.Random) -> None:
    """A probe on samples of the training data: refused before the run is begun."""
    shards = f"{arena.data['vision']}/shards"
    probe = [f"probe.test_shards={shards}", f"probe.train_shards={shards}", "probe.train_samples=20"]
    said = train(trial, shards, folder / "run", *probe).end(MISTAKE)
    trial.expect("not held out" in said, "silent: no word of held-out samples", said)


def credentials(arena: Arena, trial: Trial, folder: Path, dice: random.Random) -> None:
    """A password in the address of the shards: in no file of the run and in no line."""
    secret, run = f"hush{dice.randrange(10**6)}", folder / "run"
    with serve(arena.data["vision"] / "shards") as store:
        pattern = f"{store.url.replace('://', f'://me:{secret}@')}/train-000000.tar"
        said = train(trial, pattern, run, f"data.cache_dir={folder}/cache").end(DONE)
    told = [str(path) for path in run.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    trial.expect(secret not in said and not told, f"lost: the password is in {told or 'the output'}")


def leftovers(arena: Arena, trial: Trial, folder: Path, dice: random.Random) -> None:
    """`kill -9` of everything at once: the next command removes what is left in /tmp and /dev/shm."""
    shards, run = f"{arena.data['vision']}/shards", folder / "run"
    command = train(trial, shards, run)
    command.wait_for(lambda: len(rows(run)) >= dice.randrange(1, 5))
    pids = {str(process.pid) for process in command.everything()}
    signal_all(command.everything(), signal.SIGKILL)
    command.end(-signal.SIGKILL)
    arena.finish(trial, shards, run)
    there = [*Path(tempfile.gettempdir()).glob("data2vec_*"), *Path("/dev/shm").glob("sem.data2vec_*")]
    left = [path.name for path in there if path.name.split("data2vec_")[1].partition("_")[0] in pids]
    trial.expect(not left, f"lost: {left} stayed behind")


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
    victim = dice.choice([path for path in shards.rglob("*") if path.is_file() and ".build" not in path.parts])
    flip(victim, dice)
    said = Command(trial, "data_shards", "validate", f"shards={shards}", "deep=true").end(FAILED, MISTAKE)
    trial.expect(victim.name in said or trial.codes[-1] == MISTAKE, f"silent: {victim.name} is not named", said)


FAULTS: dict[str, tuple[Fault, int]] = {
    "signal": (signal_at_a_random_moment, 5),
    "checkpoint": (damaged_checkpoint, 3),
    "moved": (newest_checkpoint_moved_away, 1),
    "cache": (cache_among_own_files, 1),
    "outage": (outage, 2),
    "index": (flipped_sidecar_or_index, 3),
    "sample": (damaged_sample, 1),
    "value": (wrong_value, 2),
    "ranks": (ranks_that_differ, 1),
    "held out": (held_out_samples_in_training, 1),
    "credentials": (credentials, 1),
    "leftovers": (leftovers, 2),
    "killed build": (killed_build, 3),
    "another input": (another_input, 1),
    "sources": (damaged_sources, 3),
    "documents": (damaged_documents, 2),
    "shards": (damaged_shards, 4),
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
