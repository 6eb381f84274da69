"""run.sh with a stand-in for Python that installs nothing; and the linters, so that one command checks everything."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.namespaces import unprivileged

ROOT = Path(__file__).parents[1]

PYTHON = f"""#!/bin/bash
# Makes a .venv of itself; `pip` and the project's modules only say that they were called.
self=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")
case "$1 $2" in
  "-V "*) echo "Python ${{FAKE_VERSION:-3.11.1}}" ;;
  "-m venv") mkdir -p "$3/bin" "$3/lib/python3.10/site-packages" && cp "$self" "$3/bin/python" ;;
  "-m configs.checks.before_install") eval "${{FAKE_CHECK:-true}}" ;;
  "-m pip") echo "$@" >>"$CALLS"; eval "${{FAKE_PIP:-true}}" ;;
  "-m "*) echo "ran $2 $3 in $PWD with $PYTHONPATH"; exit "${{FAKE_EXIT:-0}}" ;;
  *) exec "{sys.executable}" "$@" ;;
esac
"""


class Door:
    """A copy of run.sh and pyproject.toml in a folder whose name has a blank."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a tree"
        self.root.mkdir()
        for name in ("run.sh", "pyproject.toml"):
            shutil.copy(ROOT / name, self.root)
        self.python = folder / "python"
        self.python.write_text(PYTHON)
        self.python.chmod(0o755)
        self.calls = folder / "calls"
        self.calls.touch()
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        self.environment = {**kept, "PYTHON": str(self.python), "CALLS": str(self.calls)}

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.root / "run.sh"), *arguments],
            cwd=self.root.parent,
            env={**self.environment, **environment},
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def installs(self) -> list[str]:
        return self.calls.read_text().splitlines()


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path)


def test_a_tree_that_cannot_be_written_is_a_line(door: Door) -> None:
    door.root.chmod(0o555)
    command = unprivileged(str(door.root / "run.sh"), "setup")
    done = subprocess.run(command, env=door.environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "") and not door.installs()
    assert done.stderr == (
        f"error: {door.root} cannot be written, and .venv is made there: copy the project to a folder of yours\n"
    )


def test_the_first_call_installs_and_the_next_does_not(door: Door) -> None:
    code, out, err = door.run("pretrain", "a=b c")
    assert (code, out) == (0, f"ran pretrain.launch a=b c in {door.root.parent} with {door.root}\n")
    assert "Python 3.11.1" in err and "ready after" in err
    assert door.run("probe", "run=x") == (0, f"ran pretrain.probe run=x in {door.root.parent} with {door.root}\n", "")
    (install,) = door.installs()
    assert " torch>=2.11,<2.14 " in install and "pytest" not in install


def test_test_adds_its_requirements_and_runs_in_the_tree(door: Door) -> None:
    door.run("setup")
    assert door.run("test", "-q")[1] == f"ran pytest -q in {door.root} with {door.root}\n"
    assert " pytest>=" in door.installs()[1]
    door.run("test")
    door.run("setup")
    assert len(door.installs()) == 2


def test_docs_builds_or_serves_and_keeps_the_other_extras(door: Door) -> None:
    door.run("test")
    code, out, err = door.run("docs")
    assert (code, out) == (0, f"ran mkdocs build in {door.root} with {door.root}\n")
    assert err.endswith(f"open {door.root}/site/index.html\n")
    assert door.run("docs", "serve")[1] == f"ran mkdocs serve in {door.root} with {door.root}\n"
    assert door.run("docs", "sreve")[0] == 2
    assert door.run("docs", FAKE_EXIT="1")[0] == 1
    door.run("test")
    assert len(door.installs()) == 2 and " mkdocs>=" in door.installs()[1]


def test_a_changed_pyproject_or_python_installs_again(door: Door) -> None:
    door.run("setup")
    file = door.root / "pyproject.toml"
    file.write_text(file.read_text().replace('"tqdm>=4.66,<5"', '"tqdm>=4.67,<5"'))
    door.run("setup")
    assert "tqdm>=4.67,<5" in door.installs()[1]
    kept = door.root / ".venv" / "lib" / "kept"
    kept.touch()
    door.run("setup", FAKE_VERSION="3.12.0")
    assert len(door.installs()) == 3 and not kept.exists()


def wait_for(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def test_a_killed_installation_is_thrown_away_and_repeated(door: Door) -> None:
    process = door.start("setup", FAKE_PIP="sleep 3")
    wait_for(door.installs)
    half = door.root / ".venv" / "lib" / "half"
    half.touch()
    process.kill()
    assert door.run("setup")[0] == 0, "after pip, which goes on alone, has ended"
    assert len(door.installs()) == 2 and not half.exists()


def test_an_environment_that_the_user_made_is_left_alone(door: Door) -> None:
    mine = door.root / ".venv" / "bin" / "mine"
    mine.parent.mkdir(parents=True)
    mine.touch()
    code, _, err = door.run("setup")
    assert code == 1 and err.endswith(
        "was not made by this command: move it away (mv .venv other), then run the command again\n"
    )
    assert mine.exists()
    (door.root / ".venv").rename(door.root / "other")
    assert door.run("setup")[0] == 0


def test_an_interrupted_installation_takes_pip_with_it(door: Door) -> None:
    process = door.start("setup", FAKE_PIP="sleep 60; echo late >>$CALLS")
    wait_for(door.installs)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert door.run("setup")[0] == 0


def test_two_first_calls_install_once(door: Door) -> None:
    first = door.start("pretrain", FAKE_PIP="sleep 2")
    wait_for(door.installs)
    code, out, err = door.run("pretrain")
    assert code == 0 and "ran pretrain.launch" in out
    assert "another call is setting up" in err
    assert "ran pretrain.launch" in first.communicate()[0]
    assert len(door.installs()) == 1


@pytest.mark.parametrize(
    ("trouble", "told", "ends"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", "the disk is full", 1),
        ("NewConnectionError: Temporary failure in name resolution", "the package index could not be reached", 76),
        ("ERROR: no matching wheel", "the installation failed: see", 1),
    ],
)
def test_a_failed_installation_says_why_and_is_repeated(door: Door, trouble: str, told: str, ends: int) -> None:
    code, out, err = door.run("pretrain", FAKE_PIP=f"echo '{trouble}'; exit 1")
    assert (code, out) == (ends, "")
    assert told in err and trouble in err
    assert door.run("pretrain")[0] == 0


def test_no_python_that_is_new_enough(door: Door) -> None:
    code, _, err = door.run("setup", PYTHON="/nowhere/python")
    assert (code, err) == (2, "error: PYTHON=/nowhere/python is no Python 3.10 or newer\n")


def test_the_callers_folder_does_not_shadow_our_packages(door: Door, tmp_path: Path) -> None:
    """Without PYTHONSAFEPATH, which Python 3.10 does not know."""
    door.run("setup")
    pth = door.root / ".venv" / "lib" / "python3.10" / "site-packages" / "data2vec.pth"
    for folder in (door.root, tmp_path / "caller"):
        for package in ("configs", "data_shards", "models", "pretrain"):
            (folder / package).mkdir(parents=True)
            (folder / package / "__init__.py").touch()
        (folder / "pretrain" / "launch.py").write_text("import models; print(__file__, models.__file__)")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "real")], check=True)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(door.root)}

    def launched() -> str:
        command = [str(tmp_path / "real" / "bin" / "python"), "-m", "pretrain.launch"]
        return subprocess.run(command, cwd=tmp_path / "caller", env=environment, capture_output=True, text=True).stdout

    assert str(door.root) not in launched()
    (site,) = (tmp_path / "real" / "lib").glob("python3*/site-packages")
    shutil.copy(pth, site)
    assert launched() == f"{door.root}/pretrain/launch.py {door.root}/models/__init__.py\n"
    shown = "import os, signal; print(signal.getsignal(2) == signal.SIG_DFL, 'DATA2VEC_COMMAND' in os.environ)"
    for command, ends in (({"DATA2VEC_COMMAND": "1"}, True), ({}, False)):
        python = [str(tmp_path / "real" / "bin" / "python"), "-c", shown]
        said = subprocess.run(python, env=environment | command, capture_output=True, text=True).stdout
        assert said == f"{ends} False\n", "Ctrl-C during the imports of a command ends it without a traceback"


def test_exit_codes_pass_through(door: Door) -> None:
    assert door.run("pretrain", FAKE_EXIT="3")[0] == 3


def test_an_unknown_command_names_the_nearest(door: Door) -> None:
    code, out, err = door.run("pretain")
    assert (code, out) == (2, "")
    assert err.startswith("error: unknown command 'pretain': did you mean 'pretrain'?\n") and "usage:" in err
    assert door.run()[0] == 2
    code, out, _ = door.run("--help")
    assert code == 0 and out.startswith("usage:")
    assert not door.installs(), "none of these needs an environment"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["shards", "biuld", "input=x"], "unknown command 'biuld': did you mean 'build'?"),
        (["shards", "build", "input"], "expected key=value, got 'input': did you mean 'input='?"),
        (["export", "run=x", "--hlep"], "expected key=value, got '--hlep': did you mean '--help'?"),
        (["pretrain", "recipe", "vision_base"], "expected key=value, got 'recipe': did you mean 'recipe='?"),
        (["probe", "=x"], "expected key=value, got '=x'"),
        (["board", "#"], "expected key=value, got '#'"),
    ],
)
def test_a_typing_error_is_answered_before_anything_is_installed(door: Door, arguments: list[str], error: str) -> None:
    assert door.run(*arguments) == (2, "", f"error: {error}\n")
    assert not door.installs()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["pretrain", "modalty=speech"], "error: unknown key 'modalty': did you mean 'modality'?"),
        (["pretrain", "model=tny"], "error: unknown model 'tny': one of base, huge, large, medium, small, tiny"),
        (["shards", "build", "sorce=x"], "error: unknown key 'sorce': did you mean 'source'?"),
        (["config", "recipe=x"], "error: unknown recipe 'x': one of demo"),
        (["export", "run=a", "wieghts=x"], "error: unknown key 'wieghts': did you mean 'weights'?"),
    ],
)
def test_wrong_keys_are_told_before_anything_is_installed(door: Door, arguments: list[str], error: str) -> None:
    code, out, err = door.run(*arguments, FAKE_CHECK=f'PYTHONPATH={ROOT} exec {sys.executable} "$@"')
    assert (code, out) == (2, "") and err.startswith(error) and err.count("\n") == 1 and door.installs() == []


def test_setup_and_docs_take_no_keys(door: Door) -> None:
    for command in ("setup", "docs"):
        assert door.run(command, "--help")[:2] == (0, door.run("help")[1])
        code, _, err = door.run(command, "x=1")
        assert code == 2 and err.startswith("error: unknown arguments 'x=1'")
    assert door.installs() == []


def test_help_and_values_of_any_shape_reach_the_command(door: Door) -> None:
    door.run("setup")
    assert door.run("shards", "--help")[1].startswith("ran data_shards --help")
    assert door.run("shards")[1].startswith("ran data_shards")
    assert door.run("config", "model=tiny")[1].startswith("ran pretrain.describing.configuration model=tiny")
    assert door.run("shards", "build", "-h")[1].startswith("ran data_shards build")
    assert door.run("pretrain", "data.shards=[a b,{0..3}]")[1].startswith(
        "ran pretrain.launch data.shards=[a b,{0..3}]"
    )
    assert door.run("test", "tests/x.py")[1].startswith("ran pytest tests/x.py")


def test_ci_and_the_readme_run_the_same_command() -> None:
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("./run.sh test --durations=20")
    assert re.search(r"^\./run\.sh test\b", (ROOT / "README.md").read_text(), re.MULTILINE)


def test_every_requirement_is_bounded_and_none_is_apex() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    lists = re.findall(r"^(?:dependencies|s3|gs|wandb|export|test|docs) = \[(.*?)\]$", text, re.MULTILINE | re.DOTALL)
    requirements = re.findall(r'"(.+?)"', "".join(lists))
    assert len(lists) == 7 and len(requirements) > 15
    for requirement in requirements:
        assert "<" in requirement and not requirement.startswith("apex"), requirement


@pytest.mark.parametrize(
    "tool", [["ruff", "check"], ["ruff", "format", "--check"], pytest.param(["mypy"], marks=pytest.mark.slow)]
)
def test_linters(tool: list[str]) -> None:
    finished = subprocess.run([sys.executable, "-m", *tool], cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
