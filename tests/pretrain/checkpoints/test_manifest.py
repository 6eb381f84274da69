"""Manifests: what is damaged, and what a killed save leaves."""

import json
import shutil

import pytest

from pretrain.checkpoints import manifest
from pretrain.checkpoints.manifest import damage, write_json


def checkpoint_entry(path):
    return {"bytes": path.stat().st_size, "sha256": manifest.file_sha256(path)}


def make(run, step, content=b"weights" * 100):
    folder = run / "checkpoints" / f"step_{step:08d}"
    folder.mkdir(parents=True)
    (folder / "model.pt").write_bytes(content)
    (folder / "state.json").write_text(json.dumps({"steps": step}))
    entries = {name: checkpoint_entry(folder / name) for name in ("model.pt", "state.json")}
    write_json(folder / "manifest.json", entries)
    return folder


def name_in_manifest(folder, name):
    """Let the manifest name a file elsewhere, with its true size and checksum."""
    shutil.copy(folder / "model.pt", folder.parent / "model.pt")
    path = folder / name
    write_json(folder / "manifest.json", {name: checkpoint_entry(path)})


def link_away(folder):
    (folder / "model.pt").rename(folder.parent / "elsewhere")
    (folder / "model.pt").symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: (f / "model.pt").unlink(), "model.pt is missing"),
        (lambda f: (f / "model.pt").write_bytes(b"short"), "model.pt has 5 bytes, not 700"),
        (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing or unreadable"),
        (lambda f: (f / "manifest.json").write_text('{"model.pt": {'), "manifest.json is missing or unreadable"),
        (lambda f: (f / "manifest.json").write_text('{"model.pt": {"cytes": 1}}'), "manifest.json is missing or"),
        (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json is missing or unreadable"),
        (lambda f: name_in_manifest(f, "../model.pt"), "../model.pt in manifest.json leads out of the checkpoint"),
        (lambda f: name_in_manifest(f, "/etc/passwd"), "/etc/passwd in manifest.json leads out of the checkpoint"),
        (lambda f: link_away(f), "model.pt in manifest.json leads out of the checkpoint"),
    ],
)
def test_damage_says_what_is_wrong(tmp_path, harm, said):
    folder = make(tmp_path, 10)
    assert damage(folder) == []
    harm(folder)
    (fault,) = damage(folder)
    assert fault.startswith(said)
