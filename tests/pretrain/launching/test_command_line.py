"""The launcher's command line, read by DeepSpeed and run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from deepspeed.launcher import runner

from pretrain.launching.command_line import command_line
from pretrain.launching.plan import plan
from tests.pretrain.launching.test_plan import CPU, REAL, config


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
    """Percent signs, too: pdsh puts host, user and rank for %h, %u and %n, and % for %%."""
    environment = ranks_module(tmp_path, "open('rank', 'w').write('|'.join(sys.argv[1:]))")
    file = tmp_path / "hosts"
    file.write_text("localhost slots=1\n127.0.0.1 slots=1\n")
    start = plan(config(REAL, "cluster=hostfile", f"cluster.hostfile={file}"), CPU, {})
    overrides = ["data.shards=/d/{0..3}.tar", "run.dir=/r/%n%h%%u/100%"]
    command = command_line(start, CPU, overrides)
    at = command.index("--no_local_rank")
    command[at:at] = ["--no_ssh_check", "--master_addr=127.0.0.1"]
    replaced = """sed 's/%%/\\x01/g; s/%n/0/g; s/%h/host/g; s/%u/user/g; s/\\x01/%/g'"""
    pdsh.write_text(pdsh.read_text().replace('"$*"', f'"$({replaced} <<<"$*")"'))
    finished = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (tmp_path / "rank").read_text().split("|") == overrides, finished.stdout + finished.stderr


def test_an_interpreter_that_pdsh_cannot_carry_is_refused(tmp_path: Path, pdsh: Path, monkeypatch) -> None:
    file = tmp_path / "hosts"
    file.write_text("a slots=1\nb slots=1\n")
    start = plan(config(REAL, "cluster=hostfile", f"cluster.hostfile={file}"), CPU, {})
    for path in ("/my tree/.venv/bin/python", "/data%n/.venv/bin/python", "/a$b/python"):
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", path)
            with pytest.raises(ValueError, match=f"^{re.escape(path)}: the interpreter cannot be passed"):
                command_line(start, CPU, [])
    (odd := tmp_path / "run%h").mkdir()
    with monkeypatch.context() as patched:
        patched.chdir(odd)
        with pytest.raises(ValueError, match="run%h: the working directory cannot be passed.*or cluster=manual$"):
            command_line(start, CPU, [])
    monkeypatch.setenv("PYTHONPATH", "/a/%u")
    with pytest.raises(ValueError, match="^PYTHONPATH=/a/%u: % and quotes cannot be passed"):
        command_line(start, CPU, [])
