"""Folders of files: classes, keys, links, and what is left out or refused by name."""

import pytest

from data_shards.shards.index import load_index
from tests.data_shards.making.test_build import keys_of
from tests.data_shards.shard_tools import build_folder, encoded, make_images


def test_class_folders_become_labels(tmp_path):
    images = make_images(tmp_path / "images", classes=("dog", "cat", "ant"))
    (images / "cat" / "deep" / "er").mkdir(parents=True)
    (images / "cat" / "deep" / "er" / "B.PNG").write_bytes(encoded(1, "PNG"))
    build_folder(images, tmp_path / "out")
    samples = keys_of(tmp_path / "out")
    assert len(samples) == 25
    assert samples["cat/deep/er/B"]["cls"] == b"1"
    assert samples["cat/deep/er/B"]["png"] == encoded(1, "PNG")  # bytes as they are
    assert samples["dog/image_0"]["cls"] == b"2"
    assert load_index(str(tmp_path / "out")).classes == ("ant", "cat", "dog")


def test_keys_are_unique_and_without_dots(tmp_path):
    for name in ("a.b.jpg", "a_b.jpg", "a.jpg", "a.png", "a.JPG", "a_2.jpg"):
        (tmp_path / name).write_bytes(encoded(0))
    build_folder(tmp_path, tmp_path / "out")
    keys = sorted(keys_of(tmp_path / "out"))
    assert len(keys) == 6 and not any("." in key for key in keys)


def test_oddities_are_counted_by_name(tmp_path):
    images = make_images(tmp_path / "images")
    (images / "cat" / "empty.jpg").touch()
    (images / "cat" / "notes.txt").write_text("x")
    (images / "cat" / ".hidden.jpg").write_bytes(b"x")
    (images / "cat" / "gone.jpg").symlink_to("nowhere")
    (images / "cat" / "loop").symlink_to(images)
    (images / "bird").mkdir()
    lines = "\n".join(build_folder(images, tmp_path / "out"))
    for name in ("0 bytes): cat/empty.jpg", "cat/notes.txt", "cat/.hidden.jpg", "cat/gone.jpg", "cat/loop", "bird"):
        assert name in lines
    assert "16 samples" in lines and "3 classes" in lines


def test_all_names_that_are_too_long_are_listed(tmp_path):
    images = make_images(tmp_path / "images")
    for i in range(25):
        (images / "cat" / ("x" * 200 + f"{i}.jpg")).write_bytes(encoded(0))
    with pytest.raises(ValueError, match="too long for a tar header") as refused:
        build_folder(images, tmp_path / "out")
    lines = str(refused.value).splitlines()
    assert len(set(lines)) == 21 and lines[-1] == "... and 5 files more"


def test_linked_folders_are_followed(tmp_path):
    make_images(tmp_path / "real")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "kitten").symlink_to(tmp_path / "real" / "cat")
    build_folder(tmp_path / "images", tmp_path / "out")
    assert len(keys_of(tmp_path / "out")) == 8


@pytest.mark.parametrize("case", ["mixed", "nothing", "missing", "long name"])
def test_what_cannot_be_built_is_refused_by_name(tmp_path, case):
    images = make_images(tmp_path / "images")
    match case:
        case "mixed":
            (images / "stray.jpg").write_bytes(encoded(0))
            words = "stray.jpg"
        case "nothing":
            images = tmp_path / "empty"
            images.mkdir()
            words = "holds no image"
        case "missing":
            images, words = tmp_path / "nowhere", "is no folder"
        case "long name":
            (images / "cat" / ("x" * 200 + ".jpg")).write_bytes(encoded(0))
            words = "x" * 200
    with pytest.raises(ValueError, match=words):
        build_folder(images, tmp_path / "out")
