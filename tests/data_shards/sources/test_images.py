"""Image files: stored as they are, and left out where they cannot be read."""

import io
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from data_shards.making.validate import validate_shards
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


def odd_images(folder):
    """A folder of images that can be used, and of others whose headers alone are sound."""
    bomb = PngInfo()
    bomb.add_text("comment", " " * 2_000_000, zip=True)
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "PNG", pnginfo=bomb)
    files = {name: encoded(1, kind) for name, kind in {
        "a.jfif": "JPEG", "b.jpe": "JPEG", "c.gif": "GIF", "d.tif": "TIFF", "e.TIFF": "TIFF", "f.ppm": "PPM",
        "g.avif": "AVIF", "avif_named.jpg": "AVIF",
    }.items()}  # fmt: skip
    bad = {"cut.jpg": encoded(1, size=(400, 300))[:1500], "text_bomb.png": buffer.getvalue()}
    folder.mkdir()
    for name, data in (files | bad | {"heic.jpg": b"\0\0\0\x18ftypheic" + bytes(90)}).items():
        (folder / name).write_bytes(data)
    return set(files), set(bad)


def test_images_are_decoded_when_they_are_built(tmp_path):
    good, bad = odd_images(tmp_path / "in")
    told = "\n".join(build_folder(tmp_path / "in", tmp_path / "out"))
    assert "left out 3 (damaged or no image): " in told and f"{len(good)} samples" in told
    for name in bad:
        assert f"{tmp_path}/in/{name} (not decodable: " in told
    assert "heic.jpg (not decodable: a HEIC image, which is not read; convert it to JPEG or PNG)" in told
    assert validate_shards(str(tmp_path / "out"), deep=True, workers=1) == ([], 1)
    told = "\n".join(build_folder(tmp_path / "in", tmp_path / "raw", decode=False))
    assert "left out 1 (damaged" in told and f"{len(good | bad)} samples" in told
    assert len(validate_shards(str(tmp_path / "raw"), deep=True, workers=1)[0]) == len(bad)


def test_images_that_are_too_large_are_left_out_with_the_remedy(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(encoded(1, "PNG"))
    Image.new("1", (20_000, 5_000)).save(tmp_path / "in" / "large.png")
    told = "\n".join(build_folder(tmp_path / "in", tmp_path / "out"))
    assert "20000 x 5000 pixels, more than vision.max_pixels=89478485; decode=false keeps it" in told
    assert "2 samples" in "\n".join(build_folder(tmp_path / "in", tmp_path / "raw", decode=False))
