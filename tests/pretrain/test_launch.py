"""Who runs where, the launcher's command line, and mistakes that are told before anything starts."""

import base64
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from deepspeed.launcher import runner

from configs.compose import compose_pretrain
from configs.schema import PretrainConfig
from data_shards.shards.index_file import FolderIndex, ShardEntry, index_json
from pretrain import launch
from pretrain.checkpoints.manifest import newest_step
from pretrain.launching import demo, input_files
from pretrain.launching.command_line import command_line
from pretrain.launching.demo import demo_overrides
from pretrain.launching.input_files import check_input_files
from pretrain.launching.plan import Launch, Machine, plan

ROOT = Path(__file__).parents[2]
CPU = Machine(gpus=[], cores=8)
GPUS = Machine(gpus=["3", "5", "6", "7"], cores=8)
REAL = "recipe=vision_base_imagenet"


def config(*overrides: str) -> PretrainConfig:
    return compose_pretrain(list(overrides))


def world_info(command: list[str]) -> dict[str, list]:
    (encoded,) = (part.partition("=")[2] for part in command if part.startswith("--world_info="))
    return json.loads(base64.urlsafe_b64decode(encoded))


@pytest.mark.parametrize(
    ("overrides", "machine", "ranks"),
    [
        ([], CPU, 2),
        ([], GPUS, 2),
        ([], Machine(["0"], 8), 1),
        ([REAL], CPU, 1),
        ([REAL], GPUS, 4),
        ([REAL, "launch.ranks=3"], GPUS, 3),
    ],
)
def test_ranks_follow_the_devices(overrides: list[str], machine: Machine, ranks: int) -> None:
    assert plan(config(*overrides), machine, {}).world == ranks


def test_more_ranks_than_gpus_is_refused() -> None:
    with pytest.raises(ValueError, match="launch.ranks=5, but this node has 4 GPUs: at most launch.ranks=4"):
        plan(config("launch.ranks=5"), GPUS, {})


def test_the_visible_gpus_are_the_ones_used() -> None:
    start = plan(config(REAL, "launch.ranks=2"), GPUS, {})
    assert world_info(command_line(start, GPUS, [])) == {"localhost": ["3", "5"]}


def test_two_nodes_by_hand() -> None:
    keys = ["cluster=manual", "cluster.nodes=2", "cluster.node_rank=1", "cluster.master=first", "launch.port=1234"]
    command = command_line(plan(config(REAL, *keys), GPUS, {}), GPUS, [])
    assert {"--node_rank=1", "--master_addr=first", "--master_port=1234"} <= set(command)
    assert world_info(command) == {"node0": [0, 1, 2, 3], "node1": ["3", "5", "6", "7"]}
    with pytest.raises(ValueError, match="cluster.node_rank=2 must be below cluster.nodes=2"):
        plan(config(REAL, *keys, "cluster.node_rank=2"), GPUS, {})
    with pytest.raises(ValueError, match="cluster.master=ADDRESS"):
        plan(config(REAL, *keys, "cluster.master=localhost"), GPUS, {})


def test_slurm_tasks_agree_without_talking() -> None:
    step = {"SLURM_STEP_NUM_NODES": "3", "SLURM_STEP_NUM_TASKS": "3", "SLURM_JOB_ID": "4012345"}
    keys = [REAL, "cluster=slurm", "cluster.master=head"]
    plans = [plan(config(*keys), GPUS, {**step, "SLURM_NODEID": str(node)}) for node in range(3)]
    assert [start.node for start in plans] == [0, 1, 2]
    assert {(start.world, start.master, start.port) for start in plans} == {(12, "head", 22345)}
    with pytest.raises(ValueError, match="12 tasks on 3 nodes.*--ntasks-per-node=1"):
        plan(config(*keys), GPUS, {**step, "SLURM_NODEID": "0", "SLURM_STEP_NUM_TASKS": "12"})
    with pytest.raises(ValueError, match="not a step of a Slurm job"):
        plan(config(*keys), GPUS, {})


@pytest.fixture
def pdsh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pdsh that hands its command to a local shell, as the remote one would get it."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "pdsh"
    script.write_text('#!/bin/bash\nwhile [[ $1 != export* && $1 != cd* && -n $1 ]]; do shift; done\nbash -c "$*"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    return script


def started(command: list[str]) -> dict[str, int]:
    """Ranks on each host by DeepSpeed's own reading of the command."""
    arguments = runner.parse_args(command[4:])
    pool = runner.parse_inclusion_exclusion(runner.fetch_hostfile(arguments.hostfile), "", "")
    slots = runner.apply_num_nodes_and_gpus(pool, arguments.num_nodes, arguments.num_gpus)
    return {host: len(ranks) for host, ranks in slots.items()}


def test_a_hostfile(tmp_path: Path, pdsh: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# the cluster\nfirst slots=8\n\nsecond slots=8  # rack 2\n")
    start = plan(config(REAL, "cluster=hostfile", f"cluster.hostfile={file}"), CPU, {})
    assert (start.hosts, start.world) == ({"first": 8, "second": 8}, 16)
    command = command_line(start, CPU, ["data.shards=/d/train-{0..3}.tar"])
    assert command[3] == "deepspeed.launcher.runner" and f"--hostfile={file}" in command
    assert shlex.split(command[-1]) == ["data.shards=/d/train-{0..3}.tar"] and command[-1].startswith("'")
    assert started(command) == start.hosts
    with pytest.raises(ValueError, match="'run.dir=a b': blanks cannot be passed"):
        command_line(start, CPU, ["run.dir=a b"])


@pytest.mark.parametrize(
    ("keys", "hosts"),
    [([], {"first": 8, "second": 4}), (["launch.ranks=4"], {"first": 4, "second": 4})],
)
def test_the_ranks_that_are_checked_are_those_that_are_started(
    tmp_path: Path, pdsh: Path, keys: list[str], hosts: dict[str, int]
) -> None:
    file = tmp_path / "hosts"
    file.write_text("first slots=8\nsecond slots=4\n")
    start = plan(config(REAL, "cluster=hostfile", f"cluster.hostfile={file}", *keys), CPU, {})
    assert start.hosts == started(command_line(start, CPU, [])) == hosts
    with pytest.raises(ValueError, match="launch.ranks=5, but second has 4 slots"):
        plan(config(REAL, "cluster=hostfile", f"cluster.hostfile={file}", "launch.ranks=5"), CPU, {})


def test_the_ranks_behind_a_hostfile_resolve_the_precision_themselves() -> None:
    fp16 = config(REAL, "precision=fp16")
    assert launch.precision_text(fp16, Launch({"first": 8}, hostfile="hosts"), CPU) == "precision=fp16"
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        launch.precision_text(fp16, Launch({"localhost": 2}), CPU)


@pytest.mark.parametrize(
    "content", ["first\n", "first slots=x\n", "first slots=0\n", "first slots=1\nfirst slots=1\n", "# nobody\n"]
)
def test_a_bad_hostfile_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "hosts"
    file.write_text(content)
    with pytest.raises(ValueError, match="cluster.hostfile=.*HOST slots=GPUS"):
        plan(config(REAL, "cluster=hostfile", f"cluster.hostfile={file}"), CPU, {})


def test_the_demo_gets_what_the_user_did_not_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA2VEC_CACHE", "/cache")
    run, data = "run.dir=runs/demo", "data.shards=/cache/shards/train-*.tar"
    train, test = "probe.train_shards=/cache/shards/train-*.tar", "probe.test_shards=/cache/shards/test-*.tar"

    def added(*overrides: str) -> list[str]:
        return demo_overrides(config(*overrides), list(overrides))

    assert added() == [run, data, train, test]
    assert added("run.dir=there", "probe.test_shards=mine") == [data, train]
    assert added("probe.train_shards=mine", "probe.test_shards=mine") == [run, data]
    assert added("probe.train_shards=") == [run, data], "the probe is off"
    assert added("data.shards=mine", "run.dir=there") == []


@pytest.mark.parametrize(("modality", "folder", "probe"), [("speech", "speech", "probe"), ("text", "text", "probe")])
def test_every_modality_has_its_demo(monkeypatch: pytest.MonkeyPatch, modality: str, folder: str, probe: str) -> None:
    monkeypatch.setenv("DATA2VEC_CACHE", "/cache")
    overrides = [f"modality={modality}"]
    assert demo_overrides(config(*overrides), overrides) == [
        f"run.dir=runs/demo_{modality}",
        f"data.shards=/cache/shards_{folder}/train-*.tar",
        f"probe.train_shards=/cache/shards_{folder}/{probe}-*.tar",
        f"probe.test_shards=/cache/shards_{folder}/test-*.tar",
    ]


def test_a_mixture_gets_the_demo_data_of_those_without_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA2VEC_CACHE", "/cache")
    overrides = ["modality=[vision,text]", "mixture.vision.shards=mine", "mixture.text.probe_test_shards=mine"]
    assert demo_overrides(config(*overrides), overrides) == [
        "run.dir=runs/demo_mixture",
        "mixture.text.shards=/cache/shards_text/train-*.tar",
        "mixture.text.probe_train_shards=/cache/shards_text/probe-*.tar",
    ]


def test_the_demos_shards_are_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA2VEC_CACHE", str(tmp_path))
    commands: list[list[str]] = []
    failed = subprocess.CompletedProcess("", 1)
    monkeypatch.setattr(demo.subprocess, "run", lambda command: commands.append(command) or failed)
    with pytest.raises(ValueError, match="the demo's shards could not be made"):
        demo.build_demo_shards("vision")
    entries = tuple(ShardEntry(f"{split}-000000.tar", 1, 1, "0" * 64, "0" * 64, 1, 1) for split in ("train", "test"))
    (tmp_path / "shards" / "index.json").write_text(index_json(FolderIndex(entries)))
    demo.build_demo_shards("vision")
    assert [command[3:] for command in commands] == [["build", "source=demo", f"output={tmp_path}/shards"]]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "data.shards is empty: give data.shards=PATTERN"),
        (["data.shards=/nowhere/x-*.tar", "run.dir=x"], "/nowhere/x-\\*.tar"),
        (["recipe=mixture_base"], "vision, which has no shards: set mixture.vision.shards=PATTERN mixture.speech."),
    ],
)
def test_missing_files_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_input_files(config(REAL, *overrides), resumes=False)


def test_a_missing_start_and_a_missing_folder_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_files, "resolve", lambda shards, folders: [])
    with pytest.raises(ValueError, match="run.dir is empty"):
        check_input_files(config(REAL, "data.shards=x"), resumes=False)
    with pytest.raises(ValueError, match="init=/nowhere: no such folder"):
        check_input_files(config(REAL, "data.shards=x", f"run.dir={tmp_path}", "init=/nowhere"), resumes=False)
    check_input_files(config(REAL, "data.shards=x", f"run.dir={tmp_path}", "init=/nowhere"), resumes=True)


def test_a_finished_run_is_recognised(tmp_path: Path) -> None:
    assert newest_step(tmp_path) == 0
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "latest").write_text("step_00000600\n")
    assert newest_step(tmp_path) == 600
    probed = config(f"run.dir={tmp_path}", "train.steps=600", "probe.train_shards=x", "probe.test_shards=x")
    assert not launch.is_complete(probed, 599) and not launch.is_complete(probed, 600)
    (tmp_path / "metrics.jsonl").write_text('{"step": 600, "modality": "vision", "knn_top1": 0.5}\n')
    assert launch.is_complete(probed, 600)


def test_threads_are_cores_by_ranks() -> None:
    start = Launch({"localhost": 4})
    environment = launch.rank_environment(config(), start, CPU)
    assert (environment["OMP_NUM_THREADS"], environment["DS_ACCELERATOR"]) == ("2", "cpu")
    environment = launch.rank_environment(config("launch.threads=3"), start, GPUS)
    assert environment["OMP_NUM_THREADS"] == "3"


def ranks_module(folder: Path, body: str) -> dict[str, str]:
    """A stand-in for pretrain.train, in a package that hides ours, and the environment to run it in."""
    (folder / "pretrain").mkdir()
    (folder / "pretrain" / "__init__.py").touch()
    (folder / "pretrain" / "train.py").write_text(f"import os, sys\nrank = os.environ['RANK']\n{body}\n")
    return {**os.environ, "PYTHONPATH": str(folder), "DS_ACCELERATOR": "cpu"}


@pytest.mark.slow
def test_the_launcher_passes_the_overrides_on(tmp_path: Path) -> None:
    environment = ranks_module(tmp_path, "open(f'rank{rank}', 'w').write('|'.join(sys.argv[1:]))")
    overrides = ["data.shards=/a b/{0..3}.tar", "optimizer.betas=[0.9,0.98]"]
    command = command_line(plan(config(), CPU, {}), CPU, overrides)
    finished = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert [(tmp_path / f"rank{rank}").read_text().split("|") for rank in range(2)] == [overrides, overrides]
    assert "INFO" not in finished.stdout + finished.stderr


@pytest.mark.slow
@pytest.mark.parametrize("death", ["sys.exit(3)", "os.kill(os.getpid(), 9)"])
def test_a_rank_that_fails_ends_the_run_with_its_code(tmp_path: Path, death: str) -> None:
    environment = ranks_module(tmp_path, f"import time\nif rank == '1': {death}\ntime.sleep(60)")
    command = command_line(plan(config(), CPU, {}), CPU, [])
    finished = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=50)
    assert finished.returncode in (3, 247)


@pytest.mark.slow
@pytest.mark.skipif(" " in sys.executable, reason="a path with a blank is refused: the test below")
def test_braces_survive_pdsh(tmp_path: Path, pdsh: Path) -> None:
    environment = ranks_module(tmp_path, "open('rank', 'w').write('|'.join(sys.argv[1:]))")
    file = tmp_path / "hosts"
    file.write_text("localhost slots=1\n127.0.0.1 slots=1\n")
    start = plan(config(REAL, "cluster=hostfile", f"cluster.hostfile={file}"), CPU, {})
    command = command_line(start, CPU, ["data.shards=/d/{0..3}.tar"])
    at = command.index("--no_local_rank")
    command[at:at] = ["--no_ssh_check", "--master_addr=127.0.0.1"]
    shell = pdsh.read_text().replace('"$*"', '"${*//%n/0}"')
    pdsh.write_text(shell)
    finished = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (tmp_path / "rank").read_text() == "data.shards=/d/{0..3}.tar", finished.stdout + finished.stderr


def test_an_interpreter_that_pdsh_cannot_carry_is_refused(tmp_path: Path, pdsh: Path, monkeypatch) -> None:
    file = tmp_path / "hosts"
    file.write_text("a slots=1\nb slots=1\n")
    start = plan(config(REAL, "cluster=hostfile", f"cluster.hostfile={file}"), CPU, {})
    monkeypatch.setattr(sys, "executable", "/my tree/.venv/bin/python")
    with pytest.raises(ValueError, match="/my tree/.venv/bin/python.*blanks cannot be passed"):
        command_line(start, CPU, [])


def test_a_mistake_is_one_line_and_code_2() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "pretrain.launch", "optimizer.lrr=1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 2
    assert finished.stderr == "error: unknown key 'optimizer.lrr': did you mean 'optimizer.lr'?\n"
