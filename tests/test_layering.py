"""Imports flow one way between packages and between the rooms of each, DeepSpeed's insides are known to one file, and
folders and files stay small."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ["configs", "data_shards", "models", "pretrain"]
CONTRACT = "data_shards.batch"
"""All that `models` may take from `data_shards`."""
PRIVATE = re.compile(
    r"_?(ds_(?!config)|bit16_|fp16_groups|fp32_groups|fp32_partitioned|single_partition|round_robin|grad_position)"
)
FLOORS = {
    "data_shards": [
        "leftovers randomness spans files request processes progress shards",
        "batch order",
        "vision speech text",
        "kinds",
        "loading sources facts sending",
        "making showing",
        "api __main__",
    ],
    "pretrain": [
        "engine launching",
        "health",
        "reporting",
        "checkpoints describing evaluation",
        "run_directory start_weights probe export reshard board launch",
        "assemble",
        "loop",
        "train",
    ],
}
"""The rooms of a package, folders and files, from the ground up: each imports of its own floor and of lower ones."""
STRANGERS = [("vision", "speech", "text")]
"""Rooms of one floor that import nothing of each other."""
MOST_FILES = 12
MOST_LINES = 300


def files(package: str, root: Path = ROOT) -> list[Path]:
    found = sorted((root / package).rglob("*.py"))
    assert found, f"{package} has no code"
    return found


def imported(file: Path) -> set[str]:
    """Dotted names that a file imports, at any depth of its code; `from a import b` counts as a.b."""
    return imported_by(file.read_text(), file)


@cache
def imported_by(text: str, file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom():
                assert node.level == 0, f"{file}: write absolute imports"
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


def upward(root: Path, package: str) -> list[str]:
    """Imports of the packages above, and of the tests."""
    above = [*LAYERS[LAYERS.index(package) + 1 :], "tests"]
    return [
        f"{file.relative_to(root)} imports {name}"
        for file in files(package, root)
        for name in sorted(imported(file))
        if any(within(name, layer) for layer in above)
    ]


def beyond_the_contract(root: Path) -> list[str]:
    """What `models` takes from the data layer beside the contract."""
    return [
        f"{file.relative_to(root)} imports {name}"
        for file in files("models", root)
        for name in sorted(imported(file))
        if within(name, "data_shards") and not within(name, CONTRACT)
    ]


def room_of(parts: tuple[str, ...]) -> str:
    """The room of a dotted name or path below the package: its folder, or the file itself; "" is the package."""
    return parts[1].removesuffix(".py") if len(parts) > 1 and parts[1] != "__init__.py" else ""


def between_rooms(root: Path, package: str) -> list[tuple[str, str, str]]:
    """Imports from one room of the package to another: (room, room, what to say of it)."""
    found = []
    for file in files(package, root):
        path = file.relative_to(root)
        for name in sorted(imported(file)):
            if within(name, package):
                rooms = room_of(path.parts), room_of(tuple(name.split(".")))
                if rooms[0] != rooms[1]:
                    found.append((*rooms, f"{path} imports {name}"))
    return found


def wrong_between_rooms(root: Path, package: str) -> list[str]:
    """Imports of a higher floor, of strangers, and of a room that imports back."""
    floor = {room: number for number, rooms in enumerate(FLOORS[package]) for room in rooms.split()}
    found = between_rooms(root, package)
    pairs = {(one, other) for one, other, _ in found}
    wrong = []
    for one, other, text in found:
        if other not in floor or one not in floor:
            wrong.append(f"{text}: {one if one not in floor else other} has no floor")
        elif floor[other] > floor[one]:
            wrong.append(f"{text}: {other} is above {one}")
        elif any(one in strangers and other in strangers for strangers in STRANGERS):
            wrong.append(f"{text}: {one} and {other} know nothing of each other")
        elif (other, one) in pairs:
            wrong.append(f"{text}: {other} imports {one} too")
    return wrong


def too_full(root: Path, package: str) -> list[str]:
    """Folders of too many files."""
    counts: dict[str, int] = {}
    for file in files(package, root):
        if file.name != "__init__.py":
            folder = str(file.parent.relative_to(root))
            counts[folder] = counts.get(folder, 0) + 1
    return [f"{f} has {n} files" for f, n in counts.items() if n > MOST_FILES]


def too_long(root: Path, package: str) -> list[str]:
    """Files of too many lines."""
    lines = {str(file.relative_to(root)): file.read_text().count("\n") for file in files(package, root)}
    return [f"{f} has {n} lines" for f, n in lines.items() if n > MOST_LINES]


@pytest.mark.parametrize("package", LAYERS)
def test_nothing_imports_upward(package: str) -> None:
    assert upward(ROOT, package) == []


def test_models_take_only_the_contract_from_the_data_layer() -> None:
    assert beyond_the_contract(ROOT) == []


@pytest.mark.parametrize("package", FLOORS)
def test_rooms_import_only_what_is_below_them(package: str) -> None:
    assert wrong_between_rooms(ROOT, package) == []


@pytest.mark.parametrize("package", FLOORS)
def test_every_room_has_a_floor(package: str) -> None:
    floors = [room for rooms in FLOORS[package] for room in rooms.split()]
    assert len(set(floors)) == len(floors)
    rooms = {room_of(file.relative_to(ROOT).parts) for file in files(package)} - {""}
    assert rooms <= set(floors), rooms - set(floors)


@pytest.mark.parametrize("package", LAYERS)
def test_folders_and_files_stay_small(package: str) -> None:
    assert too_full(ROOT, package) == []
    assert too_long(ROOT, package) == []


def plant(root: Path, file: str, text: str) -> None:
    """Write a file into a tree that has a file of every package."""
    for package in LAYERS:
        (root / package).mkdir(exist_ok=True)
        (root / package / "__init__.py").touch()
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("data_shards/order/plain.py", "from data_shards.loading.loader import open_loader"),
        ("data_shards/shards/index.py", "def f():\n    import data_shards.order.plain"),
        ("data_shards/text/masks.py", "from data_shards.speech import masks"),
        ("data_shards/loading/loader.py", "from data_shards.making import build"),
        ("data_shards/spans.py", "import data_shards.new_room"),
        ("pretrain/health/guard.py", "from pretrain.reporting.metrics import MetricsRow"),
        ("pretrain/launching/plan.py", "from pretrain import loop"),
        ("pretrain/checkpoints/saving.py", "from pretrain.run_directory import lock"),
    ],
)
def test_a_planted_import_between_rooms_is_found(tmp_path: Path, file: str, text: str) -> None:
    package = file.partition("/")[0]
    plant(tmp_path, file, "from configs.schema import PretrainConfig")
    assert wrong_between_rooms(tmp_path, package) == []
    plant(tmp_path, file, text)
    (wrong,) = wrong_between_rooms(tmp_path, package)
    assert wrong.startswith(f"{file} imports ")


def test_rooms_of_one_floor_that_import_each_other_are_found(tmp_path: Path) -> None:
    plant(tmp_path, "pretrain/engine/engine.py", "from pretrain.launching import exits")
    assert wrong_between_rooms(tmp_path, "pretrain") == []
    plant(tmp_path, "pretrain/launching/exits.py", "from pretrain.engine import layout")
    assert len(wrong_between_rooms(tmp_path, "pretrain")) == 2


def test_planted_imports_between_packages_are_found(tmp_path: Path) -> None:
    plant(tmp_path, "data_shards/order/plain.py", "from models.build import part_state")
    plant(tmp_path, "models/build.py", "from data_shards.batch import MaskedBatch\nfrom data_shards.spans import f")
    plant(tmp_path, "pretrain/loop.py", "from tests.own import own")
    assert [len(upward(tmp_path, package)) for package in LAYERS] == [0, 1, 0, 1]
    assert beyond_the_contract(tmp_path) == ["models/build.py imports data_shards.spans.f"]


def test_full_folders_and_long_files_are_found(tmp_path: Path) -> None:
    for number in range(MOST_FILES + 1):
        plant(tmp_path, f"pretrain/engine/file{number}.py", "x = 1\n" * (MOST_LINES + number))
    assert too_full(tmp_path, "pretrain") == ["pretrain/engine has 13 files"]
    assert len(too_long(tmp_path, "pretrain")) == MOST_FILES


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


DOORS = ["launch", "export", "probe", "reshard", "board", "describing.configuration"]
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


@pytest.mark.parametrize("package", LAYERS)
def test_text_files_name_their_encoding(package: str) -> None:
    """The locale of a batch job is often ASCII, and a codec's error names no file."""
    least = {"read_text": 1, "write_text": 2}
    for file in files(package):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in least:
                named = any(keyword.arg == "encoding" for keyword in node.keywords)
                assert named or len(node.args) >= least[node.func.attr], f"{file}:{node.lineno}"


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
    assert knows == {"folders.py"}
