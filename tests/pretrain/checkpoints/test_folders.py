"""Folders of checkpoints: their order, and what comes and goes of them."""

import shutil
from pathlib import Path

import pytest

from data_shards.files import PARTIAL
from pretrain.checkpoints.folders import (
    checkpoint_folders,
    commit,
    describe_newest,
    make_staging,
    remove,
    remove_leftovers,
    staging_of,
)
from pretrain.checkpoints.manifest import Damaged, damage
from tests.pretrain.checkpoints.test_manifest import RANK, make


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_the_order_is_that_of_the_steps(tmp_path):
    steps = [99_999_999, 100_000_000, 5]
    for step in steps:
        make(tmp_path, step)
    for stray in ("step_5x", "step_", "step_-0000001", "staging_step_00000007", "step_\u0665"):
        (tmp_path / "checkpoints" / stray).mkdir()
    (tmp_path / "checkpoints/step_00000009").write_text("a file")
    found = checkpoint_folders(tmp_path / "checkpoints")
    assert [folder.name for folder in found] == ["step_00000005", "step_99999999", "step_100000000"]
    assert describe_newest(tmp_path).endswith("step_100000000")
    assert checkpoint_folders(tmp_path / "none") == []
    assert describe_newest(tmp_path / "none") == "there is no checkpoint yet"


def test_the_file_latest_is_not_believed(tmp_path):
    make(tmp_path, 10)
    (tmp_path / "checkpoints/latest").write_text("../../x_7")
    assert describe_newest(tmp_path) == f"the last checkpoint is {tmp_path}/checkpoints/step_00000010"


def test_a_replacement_that_was_killed_half_way_gives_the_old_one_back(tmp_path):
    folder = make(tmp_path, 10)
    folder.rename(folder.with_name("replaced_step_00000010"))
    (tmp_path / "checkpoints/staging_step_00000012").mkdir()
    (tmp_path / "checkpoints/removed_step_00000005").mkdir()
    remove_leftovers(tmp_path / "checkpoints")
    assert names(tmp_path) == ["step_00000010"] and damage(folder) == []
    shutil.copytree(folder, folder.with_name("replaced_step_00000010"))
    remove_leftovers(tmp_path / "checkpoints")
    assert names(tmp_path) == ["step_00000010"]


def test_a_removal_that_was_killed_half_way_is_ended(tmp_path):
    folder = make(tmp_path, 10)
    (folder / RANK).unlink()
    folder.rename(folder.with_name("removed_step_00000010"))
    remove_leftovers(tmp_path / "checkpoints")
    assert names(tmp_path) == []


def test_leftovers_are_known_by_their_files_and_links_are_not_followed(tmp_path):
    """The user's folders and files, whatever they are called."""
    folder, elsewhere = tmp_path / "checkpoints", make(tmp_path / "other", 1)
    for name, file in [
        ("staging_mine", RANK), ("removed_old", "state.json"), ("staging_step_00000001", "notes.txt"),
        ("removed_step_00000002", RANK), ("replaced_step_00000003x", "manifest.json"),
        ("replaced_step_00000005", "notes.txt"), ("staging_step_00000006", f"{RANK}.tmp"),
    ]:  # fmt: skip
        (folder / name).mkdir(parents=True)
        (folder / name / file).write_text("mine")
    for kind in ("staging_", "removed_", "replaced_"):
        (folder / f"{kind}step_00000004").symlink_to(elsewhere)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    (folder / "staging_step_00000001" / f"{RANK}{PARTIAL}").write_text("of a killed save")
    remove_leftovers(folder)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before
    assert damage(elsewhere) == []


def test_a_link_is_no_checkpoint_to_remove_and_no_folder_to_write_to(tmp_path):
    elsewhere = make(tmp_path / "other", 10)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    link = folder / elsewhere.name
    link.symlink_to(elsewhere)
    assert checkpoint_folders(folder) == [link], "but it is read"
    with pytest.raises(OSError, match="it is a link"):
        remove(link)
    staging_of(link).symlink_to(elsewhere)
    with pytest.raises(FileExistsError):
        make_staging(link)
    assert damage(elsewhere) == []


def test_a_folder_without_a_manifest_is_not_removed(tmp_path):
    folder = make(tmp_path, 10)
    (folder / "manifest.json").unlink()
    with pytest.raises(Damaged, match="manifest.json is missing"):
        remove(folder)
    assert (folder / RANK).exists()


def test_a_commit_moves_what_has_its_name_aside(tmp_path):
    """Somebody's folder of that name: it is no checkpoint, and is kept."""
    final = tmp_path / "checkpoints/step_00000010"
    staging = make_staging(final) if final.parent.mkdir() is None else final
    final.mkdir()
    (final / "mine.txt").write_text("mine")
    commit(staging, final, {})
    assert (final / "manifest.json").exists() and not (final / "mine.txt").exists()
    assert (tmp_path / "checkpoints/replaced_step_00000010/mine.txt").read_text() == "mine"
