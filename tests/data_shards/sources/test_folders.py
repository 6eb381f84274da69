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
    for name in ("cat/empty.jpg", "cat/notes.txt", "cat/.hidden.jpg", "cat/gone.jpg", "cat/loop"):
        assert f"): {images}/{name}" in lines
    assert "they keep their number): bird" in lines
    assert "16 samples" in lines and "3 classes" in lines


def test_keys_of_names_that_are_too_long_for_a_tar_are_shortened(tmp_path):
    images = make_images(tmp_path / "images")
    deep = images / "dog" / ("d" * 90) / ("e" * 90) / ("f" * 90)
    deep.mkdir(parents=True)
    for i in range(25):
        (images / "cat" / ("x" * 200 + f"{i}.jpg")).write_bytes(encoded(i))
    (images / "cat" / ("ü" * 110 + ".jpg")).write_bytes(encoded(30))
    (deep / "y.jpg").write_bytes(encoded(31))
    told = "\n".join(build_folder(images, tmp_path / "out"))
    assert (
        "43 samples" in told and f"kept 27 (a name that is too long for a tar; its key is shortened): {images}" in told
    )
    keys = set(keys_of(tmp_path / "out"))
    assert len(keys) == 43 and sum(key.startswith("cat/" + "x" * 32 + "_") for key in keys) == 25
    assert sum(key.startswith("cat/" + "ü" * 16 + "_") for key in keys) == 1
    assert sum(key.startswith("dog/y_") for key in keys) == 1
    again = tmp_path / "again"
    build_folder(images, again)
    assert set(keys_of(again)) == keys, "a pure function of the name"


def test_linked_folders_are_followed(tmp_path):
    make_images(tmp_path / "real")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "kitten").symlink_to(tmp_path / "real" / "cat")
    build_folder(tmp_path / "images", tmp_path / "out")
    assert len(keys_of(tmp_path / "out")) == 8


@pytest.mark.parametrize("case", ["mixed", "nothing", "missing"])
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
    with pytest.raises(ValueError, match=words):
        build_folder(images, tmp_path / "out")
