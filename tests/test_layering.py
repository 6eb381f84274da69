"""Imports flow one way, and DeepSpeed's insides are known to one file."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ["configs", "data_shards", "models", "pretrain"]
CONTRACT = "data_shards.batch"
"""All that `models` may take from `data_shards`."""
PRIVATE = re.compile(
    r"_?(ds_(?!config)|bit16_|fp16_groups|fp32_groups|fp32_partitioned|single_partition|round_robin|grad_position)"
)


def files(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, f"{package} has no code"
    return found


def imported(file: Path) -> set[str]:
    """Dotted names that a file imports, at any depth of its code; `from a import b` counts as a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom():
                assert node.level == 0, f"{file}: write absolute imports"
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


@pytest.mark.parametrize("package", LAYERS)
def test_nothing_imports_upward(package: str) -> None:
    above = LAYERS[LAYERS.index(package) + 1 :]
    for file in files(package):
        upward = {name for name in imported(file) for layer in [*above, "tests"] if within(name, layer)}
        assert not upward, f"{file.relative_to(ROOT)} imports {upward}"


def test_models_take_only_the_contract_from_the_data_layer() -> None:
    for file in files("models"):
        taken = {name for name in imported(file) if within(name, "data_shards") and not within(name, CONTRACT)}
        assert not taken, f"{file.relative_to(ROOT)} imports {taken}"


@pytest.mark.parametrize("package", ["configs", "data_shards", "models"])
def test_only_pretrain_uses_deepspeed(package: str) -> None:
    for file in files(package):
        assert not [name for name in imported(file) if within(name, "deepspeed")], f"{file.relative_to(ROOT)}"


def test_one_file_knows_deepspeeds_insides() -> None:
    knows = {
        file.name
        for file in files("pretrain")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and PRIVATE.match(node.attr)
    }
    assert knows == {"zero_partitions.py"}


def test_nothing_is_unpickled() -> None:
    """A checkpoint, a shard or an export must not be able to run code."""
    for package in LAYERS:
        for file in files(package):
            assert not {name for name in imported(file) if name.split(".")[0] in ("pickle", "dill", "joblib")}, file
            text = file.read_text()
            assert text.count("torch.load(") == text.count("weights_only=True"), file
            assert "allow_pickle=True" not in text, file


LOADED = """
import json, runpy, sys
module, *sys.argv[1:] = sys.argv[1:]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
finally:
    print(json.dumps([name for name in ("torch", "deepspeed") if name in sys.modules]))
"""


def loaded(module: str, *arguments: str) -> list[str]:
    """Heavy packages that a command has loaded when it ends."""
    command = [sys.executable, "-c", LOADED, module, *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in ended.stderr.replace("SystemExit", ""), ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


DOORS = ["launch", "export", "probe", "reshard", "board"]
SHARDS = ["build", "validate", "index", "info", "bench"]


@pytest.mark.parametrize(
    "command",
    [*([f"pretrain.{door}"] for door in DOORS), ["data_shards"], *(["data_shards", name] for name in SHARDS)],
    ids=" ".join,
)
def test_help_loads_nothing_heavy(command: list[str]) -> None:
    assert loaded(*command, "--help") == []


def test_building_shards_loads_no_torch(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("the cat sat on the mat\n" * 50)
    arguments = ["source=textfiles", f"input={tmp_path}/texts", f"output={tmp_path}/shards", "vocab_size=300"]
    assert loaded("data_shards", "build", *arguments) == []


@pytest.mark.parametrize("module", ["checkpoints.reading", "checkpoints.resharding", "evaluation.probing", "export"])
def test_checkpoints_are_read_without_deepspeed(module: str) -> None:
    code = f"import sys, pretrain.{module}, models.huggingface; sys.exit('deepspeed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


FLOORS = [
    ["engine", "launching"],
    ["health"],
    ["reporting"],
    ["checkpoints", "evaluation"],
    ["run_directory", "start_weights", "probe", "export", "reshard", "board", "launch"],
    ["assemble"],
    ["loop"],
    ["train"],
]
"""Folders and modules of pretrain, from the ground up."""


def floor(module: str) -> int:
    (found,) = (number for number, names in enumerate(FLOORS) if module in names)
    return found


def test_pretrain_imports_from_lower_floors() -> None:
    for file in files("pretrain"):
        path = file.relative_to(ROOT / "pretrain").with_suffix("")
        own = path.parts[0]
        if own == "__init__":
            continue
        taken = {name.split(".")[1] for name in imported(file) if within(name, "pretrain")} - {own}
        higher = {name for name in taken if floor(name) > floor(own) or floor(name) == floor(own) < 4}
        assert not higher, f"pretrain/{path}.py imports {higher}"


@pytest.mark.parametrize("package", LAYERS)
def test_no_two_files_import_each_other(package: str) -> None:
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files(package)}
    imports = {name: {other for other in names if any(within(i, other) for i in imported(file))} - {name}
               for name, file in names.items()}  # fmt: skip
    pairs = {(a, b) for a in names for b in imports[a] if a in imports[b]}
    assert not pairs


def test_one_file_knows_the_names_of_checkpoint_folders() -> None:
    knows = {file.name for file in files("pretrain") if re.search(r'f?"(step|staging|removed|replaced)_[{"*]',
             file.read_text())}  # fmt: skip
    assert knows == {"manifest.py"}
