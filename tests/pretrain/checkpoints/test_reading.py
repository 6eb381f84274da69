"""Reading checkpoints without DeepSpeed: which one is the newest sound one, and its state."""

import shutil
from pathlib import Path

import pytest
import torch

from pretrain.checkpoints import manifest
from pretrain.checkpoints.folders import checkpoint_folders
from pretrain.checkpoints.manifest import Damaged, Unreadable
from pretrain.checkpoints.reading import load_weights, newest_good_of, newest_sound, read_state
from tests.pretrain.checkpoints.test_manifest import RANK, list_in_manifest, make


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """Give a file another content, and the manifest its checksum."""
    (folder / name).write_bytes(content)
    list_in_manifest(folder, ["state.json", RANK])


def test_a_checkpoint_of_an_older_version_is_refused_by_its_format(tmp_path):
    rewrite(make(tmp_path, 20), "state.json", b'{"steps": 20}')
    for read in (read_state, lambda folder: newest_sound([folder])):
        with pytest.raises(ValueError, match="has format 1, this version reads 2: go on with the version that wrote"):
            read(tmp_path / "checkpoints/step_00000020")


@pytest.mark.parametrize("text", ["[]", "7", "{", '{"format": 2}', '{"format": 2, "groups": [], "odd": 1}', "[" * 9999])
def test_a_state_that_no_save_has_written_is_damage(tmp_path, text):
    folder = make(tmp_path, 20)
    (folder / "state.json").write_text(text)
    with pytest.raises(Damaged, match="state.json is not what this version writes"):
        read_state(folder)


def test_a_run_without_a_checkpoint_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ValueError, match=f"run={tmp_path} has no complete checkpoint"):
        load_weights(tmp_path, "teacher")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: (f / "manifest.json").write_text("{}"), "manifest.json does not list state.json"),
        (lambda f: list_in_manifest(f, ["state.json"]), "its manifest lists no rank_"),
        (lambda f: rewrite(f, "state.json", b"[]"), "state.json is not what this version writes"),
        (lambda f: rewrite(f, RANK, b"no tensors"), "a file of it cannot be read"),
        (lambda f: flip(f / RANK), "has another checksum"),
        (lambda f: [shutil.rmtree(f), shutil.copytree(f.parent / "step_00000010", f)], "it is of step 10: give"),
        (lambda f: [path.unlink() for path in f.iterdir()], "manifest.json is missing"),
    ],
)  # fmt: skip
def test_the_newest_sound_folder_decides(tmp_path, caplog, harm, said):
    """What matches its manifest, but is no whole checkpoint, is passed over as well."""
    old, new = make(tmp_path, 10), make(tmp_path, 20)
    assert newest_good_of(tmp_path) == new
    harm(new)
    assert newest_good_of(tmp_path) == old
    assert f"{new} is damaged and passed over" in caplog.text and said in caplog.text


def test_a_file_that_the_manifest_does_not_list_changes_nothing(tmp_path):
    make(tmp_path, 10)
    new = make(tmp_path, 20)
    (new / "rank_00001.safetensors").write_bytes((tmp_path / "checkpoints/step_00000010" / RANK).read_bytes())
    weights, step = load_weights(tmp_path, "student")
    assert step == 20 and torch.equal(weights["a"], torch.full((100,), 20.0))


def test_what_cannot_be_read_is_not_passed_over(tmp_path, monkeypatch):
    make(tmp_path, 10)
    new = make(tmp_path, 20)

    def fails(path: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(manifest, "WAITS_S", (0.0, 0.0))
    monkeypatch.setattr(manifest, "file_sha256", fails)
    damaged: set[Path] = set()
    with pytest.raises(Unreadable, match=f"{new}/{RANK} cannot be read"):
        newest_sound(checkpoint_folders(tmp_path / "checkpoints"), damaged)
    assert not damaged
