"""tests/ mirrors the tree: data_shards/shards/reader.py is tested by tests/data_shards/shards/test_reader.py."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ["configs", "data_shards", "models", "pretrain"]
NO_TEST = {
    "configs/schema_commands.py": "fields alone; test_keys and test_compose read all of them",
    "configs/schema_objective.py": "fields alone; test_keys and test_compose read all of them",
    "configs/schema_running.py": "fields alone; test_keys and test_compose read all of them",
    "data_shards/request.py": "fields alone",
    "data_shards/shards/bad_sample.py": "an exception and fields alone",
    "pretrain/engine/layout.py": "fields alone",
}
"""Sources of constants and fields alone."""
ELSEWHERE = {
    "configs/checks/modalities.py": "tests/configs/checks/test_run.py",  # every rule, with its remedy
    "data_shards/loading/loader.py": "tests/data_shards/loading/test_modality_loader.py",  # which of the two it opens
    "data_shards/loading/steps.py": "tests/data_shards/loading/test_modality_loader.py",  # over ranks, workers
    "models/objective.py": "tests/models/test_data2vec.py",  # an interface, with one that has it
    "models/network.py": "tests/models/test_data2vec.py",  # an abstract class: what its three forms have in common
    "data_shards/sources/opening.py": "tests/data_shards/making/test_build.py",  # builds of every source
    "pretrain/assemble.py": "tests/integration/test_run.py",  # the parts of whole runs
    "pretrain/engine/engine.py": "tests/integration/test_engine.py",  # real ranks under the launcher
    "pretrain/engine/zero_partitions.py": "tests/integration/test_engine.py",  # every stage on real ranks
    "pretrain/loop.py": "tests/integration/test_run.py",  # whole runs
    "pretrain/reporting/report.py": "tests/integration/test_run.py",  # what whole runs leave behind
    "pretrain/checkpoints/resharding.py": "tests/pretrain/test_reshard.py",  # the command that is all of it
    "pretrain/launching/job.py": "tests/pretrain/launching/test_supervise.py",  # which starts one in every test
    "pretrain/launching/processes.py": "tests/pretrain/launching/test_supervise.py",  # its processes live and die there
}
"""Sources that are tested under another name, where what they do can be seen."""
ACROSS = {
    "configs/test_help.py": "keys and schema: what --help prints, and the docstrings that it prints",
    "data_shards/test_bounds.py": "memory and time of decoding the worst legal image, recording and text",
    "data_shards/test_damage.py": "damage of every kind, from the tar to the loader and `shards validate`",
    "data_shards/test_elastic.py": "order and loading: other ranks and workers go on with the same samples",
    "data_shards/test_formats.py": "GNU tar, webdataset and our reader and index beside each other",
    "data_shards/test_fuzz.py": "chance damages, from the tar to the loader",
    "data_shards/test_fuzz_sources.py": "chance damages of source files, through `shards build`",
    "data_shards/test_order_properties.py": "what holds of every order: plain, blended, in any cut",
    "data_shards/test_remote.py": "remote shards: storage, cache, reader and loader together",
    "data_shards/test_resume_memory.py": "the order of 10 million samples, as benchmarks/order.py makes it",
    "pretrain/test_typed_values.py": "keys, schema, checks and launch: any value that a user can type for any key",
    "models/test_hidden_states.py": "networks and huggingface/: every hidden state beside Transformers'",
}
"""Tests of no single source, and why."""


def sources(root: Path) -> set[str]:
    """Every source but `__init__`, which holds little; `__main__` is tested as `main`."""
    found = {path.relative_to(root) for package in PACKAGES for path in (root / package).rglob("*.py")}
    return {str(path) for path in found if path.name != "__init__.py"}


def test_of(source: str) -> str:
    """Where a source is tested."""
    path = Path("tests", source)
    return str(path.with_name(f"test_{path.name.replace('__main__', 'main')}"))


test_of.__test__ = False  # type: ignore[attr-defined]


def untested(root: Path) -> list[str]:
    """Sources without their test file."""
    exempt = NO_TEST.keys() | {source for source, place in ELSEWHERE.items() if (root / place).is_file()}
    return sorted(source for source in sources(root) - exempt if not (root / test_of(source)).is_file())


def astray(root: Path) -> list[str]:
    """Test files of no source; that of a package's `__init__` stands beside its folder."""
    known = {test_of(source) for source in sources(root)} | {f"tests/{path}" for path in ACROSS}
    known |= {
        test_of(f"{path.parent.relative_to(root)}.py") for p in PACKAGES for path in (root / p).rglob("__init__.py")
    }
    tests = {str(path.relative_to(root)) for p in PACKAGES for path in (root / "tests" / p).rglob("test_*.py")}
    return sorted(tests - known)


def test_every_source_has_its_test_file() -> None:
    assert untested(ROOT) == []


def test_every_test_file_has_its_source() -> None:
    assert astray(ROOT) == []


@pytest.mark.parametrize("listed", [NO_TEST, ELSEWHERE], ids=["no test", "elsewhere"])
def test_exceptions_are_of_sources_without_a_test_file(listed: dict[str, str]) -> None:
    assert [source for source in listed if not (ROOT / source).is_file()] == []
    assert [source for source in listed if (ROOT / test_of(source)).is_file()] == []


def test_what_is_tested_across_is_there() -> None:
    assert [path for path in ACROSS if not (ROOT / "tests" / path).is_file()] == []


def test_a_new_source_and_a_test_left_behind_are_found(tmp_path: Path) -> None:
    for file in (
        "pretrain/health/new.py", "pretrain/health/guard.py", "data_shards/__main__.py", "models/hf/__init__.py",
        "tests/pretrain/health/test_guard.py", "tests/pretrain/test_gone.py", "tests/data_shards/test_main.py",
        "tests/models/test_hf.py", "tests/data_shards/shard_tools.py",
    ):  # fmt: skip
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert untested(tmp_path) == ["pretrain/health/new.py"]
    assert astray(tmp_path) == ["tests/pretrain/test_gone.py"]
