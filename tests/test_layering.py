"""Imports flow one way, and DeepSpeed's insides are known to one file."""

import ast
import re
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
