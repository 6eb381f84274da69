"""The demo's recordings: classes by first sound, splits by first word, and a decoder that is not installed."""

import gzip
import zipfile

import numpy as np
import pytest

from configs.schema_commands import BuildConfig
from data_shards.making.build import build
from data_shards.shards.index import load_index
from data_shards.sources.demo import speech as demo_speech
from data_shards.speech.audio import read_audio
from tests.data_shards.shard_tools import clip, members


def write_speech(folder):
    """40 made-up prompts, ten of each first word."""
    rows = ["path\tlabel\ttext"]
    for i in range(40):
        (folder / "en").mkdir(parents=True, exist_ok=True)
        (folder / f"en/a.{i}.flac").write_bytes(clip(i, 4000 + 200 * i))
        rows.append(f"en/a.{i}.flac\ten\t{('Please', 'Dial', 'Mailbox', 'The')[i % 4]} number {i}")
    (folder / "clips.tsv").write_text("\n".join(rows) + "\n")
    return folder


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
    assert demo_speech._prompt_texts(gzip.compress(lines.encode("utf-8-sig"))) == {"vm-a": "Say: something"}


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
    demo_speech._decode_prompts(tmp_path / "in", tmp_path / "out")
    clips, told = demo_speech._read_prompts(tmp_path / "out", "here")
    assert [(clip.name, clip.language, clip.text) for clip in clips] == [
        ("it/digits/1", "it", "Uno")
    ] and "1 prompts" in told
    assert read_audio(clips[0].path.read_bytes()).tobytes() == bytes(range(8))
