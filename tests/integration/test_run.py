"""Whole runs under the launcher on real tars: kill and resume, damage, a directory in use, bad images, export."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from configs.schema_commands import BuildConfig
from data_shards.making.build import build
from data_shards.making.writer import save_folder_index, write_shard
from data_shards.shards.index import load_index
from data_shards.shards.index_file import FolderIndex
from data_shards.shards.reader import Reader
from pretrain.checkpoints.reading import load_weights
from pretrain.run_directory import lock
from tests.data_shards.shard_tools import damage, make_shards
from tests.integration.made_up import tiny
from tests.integration.processes import ENVIRONMENT, ROOT, launch, session_processes, signal_all
from tests.integration.real_shards import COUNT, build_shards
from tests.integration.runs import assert_same_run, rows
from tests.own import odd_rights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def all_shards(tmp_path_factory) -> dict[str, Path]:
    """Shards of real files of every modality."""
    return {name: build_shards(tmp_path_factory.mktemp(name), name) for name in ("vision", "speech", "text")}


@pytest.fixture(scope="module")
def shards(all_shards, tmp_path_factory) -> Path:
    """Those of the images, dealt to shards of very uneven sizes."""
    reader = Reader(load_index(str(all_shards["vision"])))
    samples = [(sample.key, sample.members) for sample in map(reader.read, range(COUNT))]
    folder = tmp_path_factory.mktemp("uneven")
    entries, first = [], 0
    for number, size in enumerate((1, 0, 3, 80, 12)):
        entries.append(write_shard(folder / f"train-{number:06d}.tar", samples[first : first + size]))
        first += size
    save_folder_index(folder, FolderIndex(tuple(entries), ("horizontal", "vertical")))
    return folder


def overrides(shards: Path, run: Path, *more: str) -> list[str]:
    """A run of 20 steps on images."""
    return [
        *tiny("vision", 16, 4), f"data.shards={shards}/train-*.tar", f"run.dir={run}", "log.every=1", "train.steps=20",
        "checkpoint.every=5", "checkpoint.keep=10", "precision=fp32", "data.workers=1", "model.drop_path=0.1",
        "log.peak_tflops=1", *more,
    ]  # fmt: skip


def mixture_overrides(shards: dict[str, Path], run: Path, *more: str) -> list[str]:
    """A run of 18 steps on all three."""
    named = [f"mixture.{name}.shards={folder}" for name, folder in shards.items()]
    return [
        *tiny("mixture", 8, 4), *named, f"run.dir={run}", "log.every=4", "log.pictures_every=10", "train.steps=18",
        "schedule.steps=30", "checkpoint.every=6", "precision=fp32", "data.workers=0",
        "model.dropout=0.1", "model.layer_drop=0.2", "log.peak_tflops=1", *more,
    ]  # fmt: skip


def train(ranks: int, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return launch(ranks, "--module", "pretrain.train", *arguments)


def start(ranks: int, arguments: list[str]) -> subprocess.Popen[bytes]:
    """A run of its own session, so that the whole process tree can be signalled."""
    command = [sys.executable, "-m", "pretrain.launch", f"launch.ranks={ranks}", *arguments]
    return subprocess.Popen(command, env=ENVIRONMENT, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE)


def wait_for(path: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def kill_everything(process: subprocess.Popen[bytes]) -> None:
    """kill -9 of every process of the run."""
    signal_all(session_processes(process.pid), signal.SIGKILL)
    process.wait(timeout=30)


@pytest.fixture(scope="module")
def straight(shards, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("straight")
    done = train(2, overrides(shards, run, "deepspeed=zero2"))
    assert (run / "checkpoints/step_00000020/manifest.json").exists(), done.stdout[-2000:] + done.stderr[-4000:]
    return run


@pytest.mark.parametrize("stage", ["zero1", "zero3"])
def test_killed_and_resumed_mixture_gives_the_same_metrics_and_weights(all_shards, tmp_path, stage):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    done = train(2, mixture_overrides(all_shards, straight, f"deepspeed={stage}"))
    assert (straight / "checkpoints/step_00000018/manifest.json").exists(), done.stderr[-4000:]
    arguments = mixture_overrides(all_shards, killed, f"deepspeed={stage}")
    process = start(2, arguments)
    wait_for(killed / "checkpoints/step_00000006/manifest.json")
    kill_everything(process)
    assert newest(killed) < 18, "the kill has to come before the end for this to mean anything"
    done = train(2, arguments)
    assert "resuming from" in done.stderr, done.stderr[-4000:]
    assert re.search(r"^ +18/18 .* (vision|speech|text)$", done.stderr, re.MULTILINE), "a row at the last step"
    ends = rf"^done: 18 steps and \d+ samples; .* saved {killed}/checkpoints/step_00000018\nnext:\n  ./run.sh probe "
    assert re.search(ends, done.stderr, re.MULTILINE)
    assert re.search(r"^speech batch +4 samples a step: 2 ranks x ", done.stderr, re.MULTILINE)
    assert_same_run(killed, straight)
    assert {row["modality"] for row in rows(straight)} == {"vision", "speech", "text"}
    padded = {row["modality"] for row in rows(straight) if row["padding"] > 0}
    assert padded == {"speech", "text"}


def test_uneven_shards_give_equal_steps_for_three_epochs(straight):
    """Shards of 1, 0, 3, 80 and 12 samples, two ranks, six steps an epoch."""
    found = rows(straight)
    assert [row["step"] for row in found] == list(range(1, 21))
    assert [row["epoch"] for row in found] == [step // 6 for step in range(20)]
    assert [row["samples"] for row in found] == [16 * step for step in range(1, 21)]
    assert found[-1]["bad_samples"] == 0


def test_every_file_of_a_run_has_the_rights_that_the_umask_grants(straight, shards):
    assert odd_rights(straight) == {} and odd_rights(shards) == {}


def test_killed_and_resumed_gives_the_same_metrics_and_weights(shards, straight, tmp_path):
    arguments = overrides(shards, tmp_path, "deepspeed=zero2")
    process = start(2, arguments)
    wait_for(tmp_path / "checkpoints/step_00000010/manifest.json")
    kill_everything(process)
    assert 10 <= newest(tmp_path) < 20
    done = train(2, arguments)
    assert "resuming from" in done.stderr and "(step 1" in done.stderr, done.stderr[-4000:]
    assert_same_run(tmp_path, straight)
    assert Path(tmp_path / "checkpoints/latest").read_text() == "step_00000020"


def newest(run: Path) -> int:
    """The step of the newest checkpoint."""
    return max(int(path.parent.name.removeprefix("step_")) for path in run.glob("checkpoints/step_*/manifest.json"))


def test_a_flipped_byte_is_named_and_the_checkpoint_before_is_taken(shards, tmp_path):
    first = overrides(shards, tmp_path, "train.steps=10", "deepspeed=zero1")
    train(1, first)
    victim = next((tmp_path / "checkpoints/step_00000010").glob("rank_*.safetensors"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    before = rows(tmp_path)
    done = train(1, first)
    assert f"{victim.name} has another checksum" in done.stderr
    assert f"resuming from {tmp_path}/checkpoints/step_00000005 (step 5)" in done.stderr
    assert rows(tmp_path) == before


def test_a_notice_to_stop_saves_and_the_run_goes_on(shards, straight, tmp_path):
    arguments = overrides(shards, tmp_path, "deepspeed=zero2", "checkpoint.every=0")
    for number, notice in enumerate([signal.SIGUSR1, signal.SIGTERM], 1):
        process = start(2, arguments)
        wait_for(tmp_path / "metrics.jsonl")
        before = len(rows(tmp_path))
        while len(rows(tmp_path)) < before + 2:
            assert process.poll() is None
            time.sleep(0.02)
        signal_all(session_processes(process.pid), notice)
        _, errors = process.communicate(timeout=120)
        saved = sorted((tmp_path / "checkpoints").glob("step_*/manifest.json"))
        assert len(saved) == number, errors.decode()[-3000:]
        assert f"notice to stop ({notice.name}): saved" in errors.decode()
        assert process.returncode == 75, notice
    train(2, arguments)
    assert rows(tmp_path) == rows(straight)


def test_a_run_directory_in_use_is_refused(shards, tmp_path):
    with lock(tmp_path):
        done = train(1, overrides(shards, tmp_path, "deepspeed=zero1"))
    assert f"error: run.dir={tmp_path} is in use by process {os.getpid()}" in done.stderr
    assert "Traceback" not in done.stderr


def cut_off(image: Path) -> None:
    """Leave the header alone, which is all that a build looks at."""
    image.write_bytes(image.read_bytes()[:50])


def test_an_unreadable_image_is_counted_and_named_and_the_run_goes_on(tmp_path):
    folder = tmp_path / "input"
    folder.mkdir()
    for number in range(32):
        Image.fromarray(np.full((20, 20, 3), number * 8, np.uint8)).save(folder / f"{number:02d}.png")
    cut_off(folder / "13.png")
    keys = {"source": "imagefolder", "input": str(folder), "output": str(tmp_path / "shards"), "workers": 1}
    build(BuildConfig(**keys, decode=False))
    run = tmp_path / "run"
    done = train(2, overrides(tmp_path / "shards", run, "train.steps=4", "deepspeed=zero1"))
    assert rows(run)[-1]["step"] == 4, done.stderr[-3000:]
    assert rows(run)[-1]["bad_samples"] == 2  # once in each of the two epochs that four steps are
    assert "13" in done.stderr and "train-000000.tar" in done.stderr


def test_too_many_bad_samples_stop_a_run_at_one_step_on_any_ranks_resumed_or_not(tmp_path):
    """16 of 64 samples are damaged, and a run of four steps an epoch may have 24: it stops in its second epoch."""
    make_shards(tmp_path / "shards", (64,))
    damage(tmp_path / "shards", range(0, 64, 4))
    limits = ["data.max_bad_samples=24", "data.max_bad_fraction=0.01", "deepspeed=zero1", "checkpoint.every=0"]
    resumed = overrides(tmp_path / "shards", tmp_path / "resumed", *limits)
    train(2, [*resumed, "train.steps=5"])
    assert newest(tmp_path / "resumed") == 5
    ends = [train(2, resumed), train(1, overrides(tmp_path / "shards", tmp_path / "straight", *limits))]
    said = [[line for line in end.stderr.splitlines() if line.startswith("error: ")] for end in ends]
    assert [len(lines) for lines in said] == [1, 1], [end.stderr[-3000:] for end in ends]
    texts = [lines[0].partition(";")[0] for lines in said]
    assert texts[0] == texts[1] and "data.max_bad_samples=24" in texts[0]
    ours, theirs = rows(tmp_path / "resumed"), rows(tmp_path / "straight")
    for key in ("step", "bad_samples", "bad_kinds"):
        assert [row.get(key) for row in ours] == [row.get(key) for row in theirs]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("mixture.speech.shards=", "mixture.speech.shards=PATTERN"),
        ("text.vocab_size=301", "has 300 types: set text.vocab_size=300"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(all_shards, tmp_path, wrong, said):
    command = [sys.executable, "-m", "pretrain.train", *mixture_overrides(all_shards, tmp_path, wrong)]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and said in done.stderr, done.stderr[-3000:]
    assert [line.startswith("error: ") for line in done.stderr.splitlines() if said in line] == [True]
    assert "Traceback" not in done.stderr


def test_what_is_wrong_on_one_rank_alone_is_said_by_that_rank(tmp_path):
    """Of two lanes, the second holds nothing but broken images; rank 1 stops the run, and rank 0 waits for it."""
    folder = tmp_path / "input"
    folder.mkdir()
    for number in range(64):
        Image.fromarray(np.full((20, 20, 3), number, np.uint8)).save(folder / f"{number:02d}.png")
        cut_off(folder / f"{number:02d}.png")
    keys = {"source": "imagefolder", "input": str(folder), "output": str(tmp_path / "shards"), "workers": 1}
    build(BuildConfig(**keys, decode=False))
    done = train(2, overrides(tmp_path / "shards", tmp_path / "run", "data.max_bad_samples=1", "deepspeed=zero1"))
    assert done.returncode != 0
    assert "error: " in done.stderr and "Traceback" not in done.stderr, done.stderr[-3000:]


def test_a_run_goes_on_on_other_ranks_and_stages_but_under_no_other_seed(shards, straight, tmp_path):
    """Two ranks in ZeRO 2, then one in ZeRO 3 with other micro-batches, every sample of every step the same: the losses
    are those of the run that nobody changed. More ranks and stages: test_elastic."""
    still, undisturbed, changed = ("model.drop_path=0", "deepspeed=zero2"), tmp_path / "undisturbed", tmp_path / "run"
    train(2, overrides(shards, undisturbed, *still))
    train(2, overrides(shards, changed, *still, "train.steps=7"))
    done = train(1, overrides(shards, changed, *still[:1], "deepspeed=zero3", "batch.micro=2"))
    assert "step_00000007 was written by 2 ranks in ZeRO 2: loading it into 1 rank in ZeRO 3" in done.stderr
    for ours, theirs in zip(rows(changed), rows(undisturbed), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
        assert all(ours[key] == theirs[key] for key in ("step", "epoch", "samples", "masked_fraction", "lr"))
    done = train(2, overrides(shards, straight, "deepspeed=zero2", "train.steps=25", "train.seed=1"))
    assert "was saved with train.seed = 0, this run has 1: go on with train.seed=0" in done.stderr


def test_a_start_that_stands_still_ends_the_run(shards, tmp_path):
    arguments = overrides(shards, tmp_path / "run", "watchdog.start_s=0.1")
    code = "import sys, time; from pretrain import loop, train; assemble = loop.assemble; "
    code += "loop.assemble = lambda *given: time.sleep(60) or assemble(*given); train.main(sys.argv[1:])"
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 76 and "(watchdog.start_s); stacks of every rank are in" in done.stderr, done.stderr
    assert len(list((tmp_path / "run" / "hangs").iterdir())) == 1


def test_the_probe_of_sharded_weights_is_that_of_whole_ones(shards, tmp_path):
    probes = []
    for stage in ("zero1", "zero3"):
        labelled = [f"probe.{split}_shards={shards}/train-*.tar" for split in ("train", "test")]
        run = tmp_path / stage
        more = [f"deepspeed={stage}", "train.steps=3", "log.every=3", "batch.micro=2", "probe.k=5", *labelled]
        done = train(2, overrides(shards, run, *more))
        found = [row for row in rows(run) if "knn_top1" in row]
        assert [row["step"] for row in found] == [0, 3], done.stderr[-3000:]
        assert "untrained network" in done.stderr and "teacher at step 3" in done.stderr
        said = done.stderr.splitlines()
        assert said.count("probing vision: 0 %, reading") == 2, "rank 0 alone, at the start and at the end"
        (first,) = (line for line in said if line.startswith("step 1/3, loss "))
        assert "samples/s" not in first, "the first row is that of step 3, but the reader sees each step"
        probes.append(found)
    for whole, sharded in zip(*probes, strict=True):
        assert whole == pytest.approx(sharded, abs=2.5 / 96)  # two images' votes may turn on rounding


def test_events_of_the_run_are_read_back(straight):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(straight / "tensorboard"))
    board.Reload()
    losses = [(event.step, pytest.approx(event.value, rel=1e-6)) for event in board.Scalars("loss")]
    assert losses == [(row["step"], row["loss"]) for row in rows(straight)]
    assert board.Images("masked_batch")
    assert "batch:" in board.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()


def test_the_export_of_a_run_loads_in_transformers(straight, tmp_path):
    from transformers import Data2VecVisionModel

    command = [sys.executable, "-m", "pretrain.export", f"run={straight}", f"out={tmp_path}/hf", "weights=teacher"]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    model, report = Data2VecVisionModel.from_pretrained(
        tmp_path / "hf", add_pooling_layer=False, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    teacher, _ = load_weights(straight, "teacher")
    assert torch.equal(model.layernorm.weight, teacher["norm.weight"])


def test_phase_two_starts_from_the_student_of_phase_one(shards, straight, tmp_path):
    # One step at the warm-up's learning rate of 0: the weights are still those it started from.
    done = train(1, overrides(shards, tmp_path, "deepspeed=zero1", f"init={straight}", "train.steps=1"))
    assert f"student and teacher start from the student of {straight} at step 20" in done.stderr
    old, new = load_weights(straight, "student")[0], load_weights(tmp_path, "teacher")[0]
    assert all(torch.allclose(old[name], new[name], atol=1e-7) for name in old)


def test_a_continued_run_takes_the_teacher_too(shards, straight, tmp_path):
    """In ZeRO 3 on two ranks, with a teacher that stands still: it is that of the first run, to the last bit."""
    still = ["teacher.decay=1", "teacher.decay_end=null", "teacher.decay_steps=0", "init_teacher=true"]
    done = train(2, overrides(shards, tmp_path, "deepspeed=zero3", f"init={straight}", "train.steps=2", *still))
    assert f"start from the student and the teacher of {straight} at step 20" in done.stderr, done.stderr[-2000:]
    old, new = (load_weights(run, "teacher")[0] for run in (straight, tmp_path))
    student, _ = load_weights(tmp_path, "student")
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert any(not torch.allclose(new[name], student[name], atol=1e-4) for name in new)
