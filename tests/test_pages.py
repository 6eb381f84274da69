"""What README, docs and folder READMEs name is there: commands with their keys, files, modules, links."""

from __future__ import annotations

import re
import shlex
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from configs.checks.run import check
from configs.compose import compose_pretrain, parse
from configs.schema_commands import (
    BenchConfig,
    BoardConfig,
    BuildConfig,
    ExportConfig,
    IndexConfig,
    InfoConfig,
    ProbeCommandConfig,
    ReshardConfig,
    ShowConfig,
    ValidateConfig,
)

ROOT = Path(__file__).parents[1]
LISTED = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True).stdout.split()
PAGES = [ROOT / name for name in LISTED] or sorted(p for p in ROOT.rglob("*.md") if ".venv" not in p.parts)
SHARDS = {
    "build": BuildConfig, "validate": ValidateConfig, "index": IndexConfig, "info": InfoConfig, "show": ShowConfig,
    "bench": BenchConfig,
}  # fmt: skip
DOORS = {"export": ExportConfig, "reshard": ReshardConfig, "probe": ProbeCommandConfig, "board": BoardConfig}
OTHERS = ("setup", "test", "docs")


def commands() -> list[str]:
    """The commands of all pages that stand in indented or fenced blocks, continued lines joined."""
    found = []
    for page in PAGES:
        text = re.sub(r"\\\n\s*", "", page.read_text())
        found += re.findall(r"^(?: {4})?(?:\$ )?(\./run\.sh [^\n]*)", text, re.MULTILINE)
    assert len(found) > 30
    return sorted(set(found))


@pytest.mark.parametrize("command", commands())
def test_commands_have_the_keys_that_they_are_given(command: str) -> None:
    words = shlex.split(command, comments=True)[1:]
    if "..." in words or words[0] in OTHERS:
        return
    match words:
        case ["shards", name, *arguments]:
            parse(SHARDS[name], arguments)
        case ["pretrain" | "config", *arguments]:
            check(compose_pretrain(arguments), world=1)
        case [door, *arguments]:
            parse(DOORS[door], arguments)


def test_files_and_modules_that_pages_name_are_there() -> None:
    missing = []
    names = {path.name for path in ROOT.rglob("*") if ".venv" not in path.parts}
    for page in PAGES:
        for name in re.findall(r"`([\w./-]+\.(?:py|md|sh|toml|yaml|json))`", page.read_text()):
            places = (ROOT / name, page.parent / name, *(ROOT / top / name for top in ("pretrain", "data_shards")))
            known = name in names or any(place.exists() for place in places)
            runtime = name.endswith((".json", ".yaml")) and not name.startswith("configs")
            if not (known or runtime or "NAME" in name):
                missing.append(f"{page.relative_to(ROOT)}: {name}")
        for module in re.findall(
            r"python -m ((?:benchmarks|configs|data_shards|models|pretrain)[\w.]*)", page.read_text()
        ):
            if find_spec(module) is None:
                missing.append(f"{page.relative_to(ROOT)}: {module}")
    assert not missing, "\n".join(missing)


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in link and not (page.parent / link).exists():
                broken.append(f"{page.relative_to(ROOT)}: {link}")
    assert not broken


def test_every_key_that_pages_name_exists() -> None:
    from configs.keys import leaf_keys
    from configs.schema import PretrainConfig

    keys = leaf_keys(PretrainConfig)
    sections = {key.partition(".")[0] for key in keys if "." in key}
    named = {
        (page, key)
        for page in PAGES
        for key in re.findall(rf"`((?:{'|'.join(sections)})\.[a-z_]+(?:\.[a-z_]+)*)(?:=[^`]*)?`", page.read_text())
    }
    files = (".py", ".md", ".yaml", ".jsonl", ".json", ".sh")
    wrong = sorted(f"{page.relative_to(ROOT)}: {key}" for page, key in named if key not in keys
                   and not any(other.startswith(f"{key}.") for other in keys) and not key.endswith(files))  # fmt: skip
    assert not wrong
