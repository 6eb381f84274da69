"""Keys and choices read from the schema as text are those of the schema."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from configs import schema_commands
from configs.checks.before_install import check, groups, keys_of
from configs.compose import GROUPS
from configs.keys import leaf_keys
from configs.schema import PretrainConfig

ROOT = Path(__file__).parents[3]


def test_keys_are_those_of_the_schema() -> None:
    assert keys_of("pretrain") == list(leaf_keys(PretrainConfig))
    names = ("shards build", "shards validate", "shards index", "shards info", "shards show", "shards bench", "export",
             "reshard", "probe", "board", "config")  # fmt: skip
    classes = {cls.__doc__.split("`")[1].removeprefix("./run.sh "): cls for cls in vars(schema_commands).values()
               if isinstance(cls, type) and hasattr(cls, "__pydantic_fields__")}  # fmt: skip
    for name in names:
        assert keys_of(name) == list(leaf_keys(classes[name])), name
    assert keys_of("test") is None


def test_groups_are_those_of_the_files() -> None:
    assert groups() == GROUPS
    assert list(groups()) == ["cluster", "data", "deepspeed", "modality", "model", "recipe"]
    assert groups()["model"] == ["base", "huge", "large", "medium", "small", "tiny"]


@pytest.mark.parametrize(
    "arguments",
    [[], ["--help"], ["modality=[vision,text]", "model=tiny", "batch.global=3"], ["mixture.text.global=1", "run.dir="]],
)
def test_what_exists_passes(arguments: list[str]) -> None:
    check("pretrain", arguments)
    check("config", arguments)


@pytest.mark.parametrize(
    ("argument", "error"),
    [
        ("lr=1", "unknown key 'lr': did you mean 'optimizer.lr'?"),
        ("modality=[vision,txt]", "unknown modality 'txt': one of speech, text, vision"),
        ("recipe=vison", "unknown recipe 'vison': one of demo"),
    ],
)
def test_the_first_mistake_is_told(argument: str, error: str) -> None:
    with pytest.raises(ValueError) as told:
        check("pretrain", ["model=tiny", argument])
    assert str(told.value).startswith(error)
    with pytest.raises(ValueError, match=str(told.value).partition("'")[0]):
        check("config", [argument])


def test_it_needs_the_standard_library_alone() -> None:
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
               "from configs.checks.before_install import main; main(['pretrain', 'modalty=x'])"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: unknown key 'modalty': did you mean 'modality'?\n")
