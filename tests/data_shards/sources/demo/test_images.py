import io

import numpy as np
from PIL import Image

from configs.schema_commands import BuildConfig
from data_shards.loading.probe_samples import labelled_samples
from data_shards.making.build import build
from data_shards.shards.index import load_index
from data_shards.sources.demo import images as demo
from tests.data_shards.shard_tools import small_config
from tests.own import own


def write_images(folder, train=30, test=10):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for stem, count in (("train", train), ("t10k", test)):
        demo.write_idx(folder / f"{stem}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28), np.uint8))
        demo.write_idx(folder / f"{stem}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8) % 10)
    return folder


def test_png_and_idx_round_trip(tmp_path):
    path = write_images(tmp_path / "set") / "train-images-idx3-ubyte.gz"
    image = Image.open(io.BytesIO(demo.encode_png(str(path), 7)))
    image.verify()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(demo.encode_png(str(path), 7)))), demo.read_idx(path)[7])


def test_images_from_a_folder(tmp_path):
    folder = write_images(tmp_path / "set")
    lines = build(BuildConfig(source="demo", input=str(folder), output=str(tmp_path / "out"), workers=1))
    assert f"Fashion-MNIST, 30 + 10, from {folder}" in lines[0]
    assert load_index(f"{tmp_path}/out/train-*.tar").classes[9] == "Ankle boot"
    images = labelled_samples(f"{tmp_path}/out/test-*.tar", own(small_config("")), 100)
    labels = images.labels
    expected = demo.read_idx(folder / "t10k-images-idx3-ubyte.gz")
    for image, label in zip(images.inputs.numpy(), labels.tolist(), strict=True):  # untouched by the transform
        assert np.array_equal(image, np.repeat(expected[label][None], 3, axis=0))
