"""Image files: stored as they are, and left out where they cannot be read."""

from pathlib import Path

from tests.data_shards.making.test_build import keys_of
from tests.data_shards.shard_tools import build_folder, encoded, make_images


def test_a_flat_folder_has_no_labels(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.webp").write_bytes(encoded(i, "WEBP"))
    lines = build_folder(tmp_path, tmp_path / "out")
    assert "no labels" in lines[-1]
    assert [set(s) & {"cls", "webp"} for s in keys_of(tmp_path / "out").values()] == [{"webp"}] * 3


def test_an_unreadable_file_is_left_out_until_it_is_readable(tmp_path, monkeypatch):
    images = make_images(tmp_path / "images")
    readable = Path.read_bytes

    def read(path):
        if path.name == "image_3.jpg":
            raise PermissionError(13, "Permission denied", str(path))
        return readable(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    assert any(line.startswith("left out 2 (unreadable: Permission") for line in build_folder(images, tmp_path / "out"))
    monkeypatch.undo()
    lines = build_folder(images, tmp_path / "out")
    assert len(lines) == 1 and "16 samples" in lines[0]
