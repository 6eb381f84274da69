"""Faults of runs: what is planted in a run, its checkpoints, its configuration and its shards."""

from __future__ import annotations

import random
import signal
import tarfile
import tempfile
import time
from pathlib import Path

from benchmarks.faults.arena import STEPS, Arena, Command, Trial, content, flip, train
from pretrain.checkpoints.folders import checkpoint_folders
from pretrain.launching.exits import DONE, FAILED, MISTAKE, STALLED, STOPPED
from pretrain.launching.plan import free_port
from tests.data_shards.http_store import serve
from tests.integration.processes import signal_all
from tests.integration.runs import assert_same_run, rows


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
    files = [path for path in shards.iterdir() if path.is_file() and path.suffix != ".tar" and path.stat().st_size]
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


def ended(command: Command) -> bool:
    """True once every killed process of a command has ended; the kernel takes a moment."""
    for _ in range(100):
        if not command.everything():
            return True
        time.sleep(0.1)
    return False


def leftovers(arena: Arena, trial: Trial, folder: Path, dice: random.Random) -> None:
    """`kill -9` of everything at once: the next command removes what is left in /tmp and /dev/shm."""
    shards, run = f"{arena.data['vision']}/shards", folder / "run"
    command = train(trial, shards, run)
    command.wait_for(lambda: len(rows(run)) >= dice.randrange(1, 5))
    pids = {str(process.pid) for process in command.everything()}
    signal_all(command.everything(), signal.SIGKILL)
    command.end(-signal.SIGKILL)
    trial.expect(ended(command), "trial: killed processes are still there")
    arena.finish(trial, shards, run)
    there = [*Path(tempfile.gettempdir()).glob("data2vec_*"), *Path("/dev/shm").glob("sem.data2vec_*")]
    left = [path.name for path in there if path.name.split("data2vec_")[1].partition("_")[0] in pids]
    trial.expect(not left, f"lost: {left} stayed behind")
