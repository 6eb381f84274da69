"""`--help`, and the docstrings that it prints."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from configs.compose import GROUPS, parse, print_help
from configs.keys import COLUMNS, help_text, leaf_keys
from configs.schema import PretrainConfig
from configs.schema_commands import (
    BenchConfig,
    BoardConfig,
    BuildConfig,
    ConfigCommandConfig,
    ExportConfig,
    IndexConfig,
    InfoConfig,
    ProbeCommandConfig,
    ReshardConfig,
    ShowConfig,
    ValidateConfig,
)

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "pretrain": PretrainConfig,
    "config": ConfigCommandConfig,
    "shards build": BuildConfig,
    "shards index": IndexConfig,
    "shards info": InfoConfig,
    "shards validate": ValidateConfig,
    "shards bench": BenchConfig,
    "shards show": ShowConfig,
    "export": ExportConfig,
    "reshard": ReshardConfig,
    "probe": ProbeCommandConfig,
    "board": BoardConfig,
}
SCHEMA = sorted((Path(__file__).parents[2] / "configs").glob("schema*.py"))
FORBIDDEN = re.compile(r"(^|[.;!?] +)(What|Of|Where|As|Whether|Which)\b")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_begins_with_usage_and_purpose(command: str) -> None:
    cls = COMMANDS[command]
    required = [f" {key.name}=VALUE" for key in leaf_keys(cls).values() if key.required]
    usage, empty, purpose, _, example, *_ = help_text(cls).splitlines()
    assert example.startswith(f"Example: ./run.sh {command} ")
    assert usage == f"usage: ./run.sh {command}{''.join(required)} [key=value ...]"
    assert not empty and purpose.endswith(".")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_the_terminal_and_names_every_key(command: str) -> None:
    cls = COMMANDS[command]
    lines = help_text(cls, GROUPS).splitlines()
    assert max(map(len, lines)) <= COLUMNS
    firsts = [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]
    keys = sorted(leaf_keys(cls).values(), key=lambda key: not key.required)
    assert [first.partition("=")[0] for first in firsts] == [*GROUPS, *(key.name for key in keys)]


@pytest.mark.parametrize("command", COMMANDS)
def test_required_keys_come_before_the_others(command: str) -> None:
    text = help_text(COMMANDS[command])
    required = [key.name for key in leaf_keys(COMMANDS[command]).values() if key.required]
    assert ("\nRequired keys:\n" in text) == bool(required)
    assert all(text.index(f"\n  {name}=VALUE ") < text.index("Keys, each with its default:") for name in required)


def test_sections_have_their_purpose_above_their_keys() -> None:
    lines = help_text(PretrainConfig).splitlines()
    place = lines.index("optimizer: AdamW: its constants, weight decay and gradient clipping.")
    assert not any("  " in line for line in lines if line[:9] == "watchdog:")
    assert lines[place - 1] == "" and lines[place + 1].startswith("  optimizer.lr=0.0005 ")


def test_help_beside_a_recipe_shows_its_values(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        print_help(PretrainConfig, ["recipe=vision_base_imagenet", "--help", "optimizer.eps=1e-3"])
    text = capsys.readouterr().out
    assert "Keys, each with its value in this configuration:" in text
    assert all(f"\n  {entry} " in text for entry in ("optimizer.lr=0.002", "optimizer.eps=0.001", "model.layers=12"))
    with pytest.raises(ValueError, match="unknown recipe 'vison'"):
        print_help(PretrainConfig, ["recipe=vison", "-h"])


def test_help_ends_the_process(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(ExportConfig, ["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert "\n  run=VALUE  Run directory; " in text and "\n  weights=teacher  " in text
    with pytest.raises(SystemExit):
        print_help(PretrainConfig, ["optimizer.lr=1", "-h"])
    assert "model=      base, huge, large, medium, small, tiny" in capsys.readouterr().out


def test_long_descriptions_wrap_with_an_indent() -> None:
    lines = help_text(PretrainConfig).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("  teacher.average=null "))
    column = lines[start].index("Modules that")
    assert lines[start + 1].startswith(" " * column) and lines[start + 1][column] != " "


@pytest.mark.parametrize("cls", COMMANDS.values(), ids=COMMANDS)
def test_every_key_is_described(cls: type) -> None:
    for key in leaf_keys(cls).values():
        assert key.description, f"{key.name} has no docstring"
        assert "..." not in key.description.replace("(...)", ""), f"{key.name}: a sentence across keys"


@pytest.mark.parametrize("file", SCHEMA, ids=lambda file: file.stem)
def test_every_docstring_of_the_schema_is_a_sentence(file: Path) -> None:
    for owner, text in docstrings(ast.parse(file.read_text())):
        assert text, f"{file.name}: {owner} has no docstring"
        assert not FORBIDDEN.search(" ".join(text.split())), f"{file.name}: {owner}: {text}"
        assert text.rstrip().endswith("."), f"{file.name}: {owner} does not end with a full stop"


def docstrings(tree: ast.Module) -> list[tuple[str, str]]:
    """(owner, docstring) of the module, its classes, their fields and properties, and public functions."""
    found = [("module", ast.get_docstring(tree) or "")]
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef():
                found.append((node.name, ast.get_docstring(node) or ""))
                for field, after in zip(node.body, [*node.body[1:], None], strict=True):
                    if isinstance(field, ast.AnnAssign) and not section(field):
                        found.append((f"{node.name}.{ast.unparse(field.target)}", text_of(after)))
            case ast.FunctionDef() if not node.name.startswith("_"):
                found.append((node.name, ast.get_docstring(node) or ""))
    return found


def section(field: ast.AnnAssign) -> bool:
    """True for `model: ModelConfig = ...`: the class has the docstring."""
    return isinstance(field.annotation, ast.Name) and field.annotation.id.endswith(("Config", "Part"))


def text_of(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return node.value.value
    return ""


def test_a_reader_that_stops_early_sees_no_traceback() -> None:
    command = f"{sys.executable} -m pretrain.launch --help | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("usage:")
