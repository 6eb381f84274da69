"""Manifests: what is damaged, and what could only not be read."""

import errno
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from pretrain.checkpoints import manifest
from pretrain.checkpoints.manifest import (
    FileEntry,
    Unreadable,
    damage,
    patiently,
    read_manifest,
    write_json,
    write_manifest,
)
from pretrain.checkpoints.partition_files import Layout, write_partitions
from pretrain.checkpoints.reading import RunState
from pretrain.engine.layout import Fragment

RANK = "rank_00000.safetensors"


def make(run: Path, step: int) -> Path:
    """A sound checkpoint of one parameter."""
    folder = run / "checkpoints" / f"step_{step:08d}"
    folder.mkdir(parents=True)
    layout = Layout(("0",), (Fragment("a", 0, 0, 0, 100),), {"a": (100,)})
    part = write_partitions(folder / RANK, {"0/master": 100}, lambda _: torch.full((100,), float(step)), layout)
    state = write_json(folder / "state.json", asdict(RunState({}, steps=step)))
    write_manifest(folder, {RANK: part, "state.json": state})
    return folder


def list_in_manifest(folder, names):
    """Let the manifest list these files, with their true sizes and checksums."""
    paths = {name: folder / name for name in names}
    write_manifest(folder, {name: FileEntry(p.stat().st_size, manifest.file_sha256(p)) for name, p in paths.items()})


def name_in_manifest(folder, name):
    shutil.copy(folder / RANK, folder.parent / RANK)
    list_in_manifest(folder, [name])


def link_away(folder):
    (folder / RANK).rename(folder.parent / "elsewhere")
    (folder / RANK).symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: (f / RANK).unlink(), f"{RANK} is missing"),
        (lambda f: [(f / RANK).unlink(), (f / RANK).mkdir()], f"{RANK} is missing"),
        (lambda f: (f / RANK).write_bytes(b"short"), f"{RANK} has 5 bytes, not "),
        (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing or unreadable"),
        (lambda f: (f / "manifest.json").write_text('{"state.json": {'), "manifest.json is missing or unreadable"),
        (lambda f: (f / "manifest.json").write_text('{"state.json": {"cytes": 1}}'), "manifest.json is missing or"),
        (lambda f: (f / "manifest.json").write_text("[" * 100_000), "manifest.json is missing or unreadable"),
        (lambda f: (f / "manifest.json").write_text("{}"), "manifest.json does not list state.json"),
        (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json is missing or unreadable"),
        (lambda f: name_in_manifest(f, f"../{RANK}"), f"../{RANK} in manifest.json leads out of the checkpoint"),
        (lambda f: name_in_manifest(f, "/etc/passwd"), "/etc/passwd in manifest.json leads out of the checkpoint"),
        (lambda f: link_away(f), f"{RANK} in manifest.json leads out of the checkpoint"),
    ],
)
def test_damage_says_what_is_wrong(tmp_path, harm, said):
    folder = make(tmp_path, 10)
    assert damage(folder) == []
    harm(folder)
    (fault,) = damage(folder)
    assert fault.startswith(said)


@pytest.fixture
def disk(monkeypatch):
    """A disk that fails the next reads of RANK: `disk(times, errno)`."""
    monkeypatch.setattr(manifest, "WAITS_S", (0.0, 0.0))
    read = manifest.file_sha256

    def fails(times: int, number: int) -> None:
        left = [times]

        def sha256(path: Path) -> str:
            if path.name == RANK and left[0]:
                left[0] -= 1
                raise OSError(number, "the disk says so", str(path))
            return read(path)

        monkeypatch.setattr(manifest, "file_sha256", sha256)

    return fails


def test_what_could_not_be_read_for_a_moment_is_read_again(tmp_path, disk):
    folder = make(tmp_path, 10)
    disk(2, errno.EIO)
    assert damage(folder) == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENOMEM])
def test_what_cannot_be_read_is_not_called_damaged(tmp_path, disk, number):
    folder = make(tmp_path, 10)
    disk(3, number)
    with pytest.raises(Unreadable, match=f"{folder}/{RANK} cannot be read .the disk says so.*no damage.*start it"):
        damage(folder)


def test_a_manifest_that_cannot_be_read_is_no_damage_either(tmp_path, disk, monkeypatch):
    folder, read = make(tmp_path, 10), Path.read_bytes

    def fails(path: Path) -> bytes:
        if path.name == "manifest.json":
            raise OSError(errno.EIO, "Input/output error")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(Unreadable, match="manifest.json cannot be read"):
        damage(folder)


def test_what_may_not_be_read_is_said_at_once(tmp_path, disk):
    folder = make(tmp_path, 10)
    disk(1, errno.EACCES)
    with pytest.raises(PermissionError, match="the disk says so"):
        damage(folder)


def test_a_file_that_is_not_listed_is_no_part_of_it(tmp_path):
    folder = make(tmp_path, 10)
    (folder / "rank_00001.safetensors").write_bytes(b"stray")
    assert damage(folder) == [] and sorted(read_manifest(folder)) == [RANK, "state.json"]


def test_the_result_of_a_read_is_passed_on(tmp_path):
    assert patiently(lambda: 7, tmp_path) == 7
