"""The demo's recordings: telephone prompts spoken in five languages, two hours by four voices, with their texts.

They are Debian's asterisk-core-sounds, 16 kHz in G.722. PyAV decodes them; its wheel is fetched and not installed.
Prompts that begin with the same word are all in one split. The class for the probe is the sound with which a prompt
begins, in its first 0.4 seconds: language and voice can be told from the mean spectrum alone (accuracy 0.98).

    train   whole prompts, without classes
    probe   beginnings of the same prompts, at most five of each first word
    test    beginnings of the other prompts, likewise
"""

from __future__ import annotations

import gzip
import hashlib
import re
import sys
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_shards.sources.demo.packages import Package, debian_places, fetch_wheel, find_data, run_command
from data_shards.sources.folders import shuffled
from data_shards.sources.media import MediaFile
from data_shards.sources.recordings import Recordings
from data_shards.sources.units import LeftOut, Split, Unit, label_member, read_unchanged
from data_shards.speech.audio import flac, read_audio

SHARD_UNITS = 400
OPENING = 6400
"""Length of a prompt's beginning in audio samples: 0.4 s."""
SOUNDS = tuple("adeiklmnpstv")
"""Sounds with which at least 70 prompts begin; the classes."""

_VOICES = {
    "en": "en_US_f_Allison", "es": "es_MX_f_Allison", "fr": "fr_CA_f_June", "it": "it_IT_m_Carlo",
    "ru": "ru_RU_f_IvrvoiceRU",
}  # fmt: skip
_TABLE = "clips.tsv"
_TEST_SHARE = 0.35
_PER_WORD = 5  # else a third of the test begins with the p of "press" and "pour"
_SHA256 = {
    "en-g722": "38c5261820b406dcb0ecb37675720da2b0864850690690352ca52707eb623806",
    "en": "973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50",
    "es-g722": "e4e3b4281057d3b81b779298fd6be705f57411513955c518eed1bcaabbd615b8",
    "es": "9afdab7f559f036649fb406e625899306ca1004df8ebe39c30bfbd5912d66f74",
    "fr-g722": "7add61d5e42279ecff1bbdf842a5a946ac3644fac9a0fe44384731aa7270c8e0",
    "fr": "04c82c78c570c43a7136cbc5e2488d0c470b775468dff9fbce4a131b18cf1056",
    "it-g722": "46b4cf7afc508a5fcfc051b7ea233251c0d195dd4ef83cc4b7facb4c6429b016",
    "it": "3884d9457e12f21caa018c18f0d587df5d53ebea14b673d8453a134c5941ab3b",
    "ru-g722": "673b4238a6b8269960f055d868c6a11083f7a0d00979167cb01554046b48ed9b",
    "ru": "28a61616bb0cd3345a7ea532dec4df9f071e5d0fa9f8c1a563ea9669002f39ab",
}
_PACKAGES = [
    Package(f"asterisk-core-sounds-{name}", f"a/asterisk-core-sounds/asterisk-core-sounds-{name}_1.6.1-1_all.deb", sha)
    for name, sha in _SHA256.items()
]
_DECODE = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import av
for path in map(pathlib.Path, sys.argv[2:]):
    with av.open(str(path), format="g722") as file:
        frames = [bytes(frame.planes[0])[: 2 * frame.samples] for frame in file.decode(audio=0)]
    path.with_suffix(".s16").write_bytes(b"".join(frames))
"""
_CYRILLIC = dict(zip("абвдезийклмнпстф", "abvdeziiklmnpstf", strict=True))


class Clip(NamedTuple):
    """A prompt in the cache."""

    path: Path
    name: str
    """Name of the prompt, without dots."""
    language: str
    text: str


def _prompt_texts(data: bytes) -> dict[str, str]:
    """Texts by name, from lines `NAME: text`. Sounds that are no speech, described in brackets, are left out."""
    lines = gzip.decompress(data).decode("utf-8-sig").splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line and not line.startswith(";"))
    texts = {name.strip(): " ".join(text.split()) for name, text in pairs if not name.startswith("silence/")}
    return {name: text for name, text in texts.items() if text and text[0] not in "[(<"}


def _decode_prompts(unpacked: Path, target: Path) -> None:
    """Decode the prompts that have a text to target/LANGUAGE/NAME.flac, and write their table."""
    with zipfile.ZipFile(fetch_wheel("av>=14,<19", unpacked)) as wheel:
        wheel.extractall(unpacked / "av")
    rows = []
    for language, voice in _VOICES.items():
        folder = unpacked / "usr/share/asterisk/sounds" / voice
        document = unpacked / f"usr/share/doc/asterisk-core-sounds-{language}/core-sounds-{language}.txt.gz"
        spoken = {n: t for n, t in _prompt_texts(document.read_bytes()).items() if (folder / f"{n}.g722").is_file()}
        run_command([sys.executable, "-c", _DECODE, str(unpacked / "av"), *(f"{name}.g722" for name in spoken)], folder)
        for name, text in sorted(spoken.items()):
            samples = np.frombuffer((folder / f"{name}.s16").read_bytes(), "<i2")
            path = target / language / f"{name}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(flac(samples))
            rows.append(f"{language}/{name}.flac\t{language}\t{text}\n")
    (target / _TABLE).write_text("path\tlabel\ttext\n" + "".join(rows), "utf-8")


def _read_prompts(folder: Path, place: str) -> tuple[list[Clip], str] | None:
    """(prompts in `folder`, their description); None if it does not hold them."""
    if not (folder / _TABLE).is_file():
        return None
    rows = [line.split("\t") for line in (folder / _TABLE).read_text("utf-8").splitlines()[1:]]
    clips = [Clip(folder / path, path.removesuffix(".flac").replace(".", "_"), *row) for path, *row in rows]
    return clips, f"demo speech: {len(clips):,} prompts in {len({c.language for c in clips})} languages, from {place}"


def _first_word(text: str) -> str:
    """First word in small letters without accents; "" if the text begins with a digit."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if not unicodedata.combining(c))
    word = re.match(r"\W*([^\W\d_]*)", plain)
    return word[1] if word else ""


def first_sound(text: str, language: str) -> str | None:
    """First sound of a text, one of SOUNDS, from its first letters in its language; None if it is unclear or rare."""
    word = _first_word(text)
    if language == "ru":
        word = _CYRILLIC.get(word[:1], "")
    elif language == "en":
        word = "" if re.match("[aeiou]|[ckpstw]h|kn|ps", word) else word
    else:
        word = word.removeprefix("h")
    if re.match("c[eiyh]", word):
        word = "s" if language in ("en", "es", "fr") and word[1] != "h" else ""
    sound = word[:1].translate(str.maketrans("cq", "kk"))
    return sound if sound in SOUNDS else None


def is_test(text: str) -> bool:
    """True if a prompt is for testing. Depends on its first word only."""
    return hashlib.blake2b(_first_word(text).encode(), digest_size=1).digest()[0] < 256 * _TEST_SHARE


def opening(samples: np.ndarray) -> np.ndarray:
    """Beginning of a prompt, int16 [OPENING].

    It starts 20 ms before the sound rises over 5 % of its highest 10-ms level. Zeros follow the prompt's end.
    """
    level = np.sqrt(np.convolve(samples.astype(np.float64) ** 2, np.full(160, 1 / 160), "same"))
    start = max(0, int(np.argmax(level > 0.05 * level.max())) - 320)
    piece = samples[start : start + OPENING]
    return np.pad(piece, (0, OPENING - len(piece)))


@dataclass(frozen=True)
class Opening:
    """The beginning of a prompt, with the class of its sound."""

    key: str
    path: str
    source_size: int
    label: int
    size: int = 12_000
    """Approximate bytes in the tar."""

    def facts(self) -> tuple:
        return (self.key, self.source_size, self.label, OPENING)

    def samples(self, left_out: LeftOut) -> Iterator[tuple[str, dict[str, bytes]]]:
        audio = opening(read_audio(read_unchanged(self.path, self.source_size)))
        yield self.key, {"flac": flac(audio), **label_member(self.label)}


def demo_speech(folder: str) -> list[Split]:
    """The demo's three splits, from `folder` or from the first place that has the prompts."""
    wanted = f"the demo's prompts ({_TABLE} and what it names, as in the cache of another machine)"
    clips, origin = find_data(
        folder, wanted, debian_places("asterisk-prompts", _PACKAGES, _decode_prompts), _read_prompts
    )
    units: dict[str, list[Unit]] = {"train": [], "probe": [], "test": []}
    begun: Counter[str] = Counter()
    for path, name, language, text in clips:
        size, side = path.stat().st_size, "test" if is_test(text) else "probe"
        if side == "probe":
            units["train"].append(MediaFile(f"train/{name}", str(path), size, 0, Recordings(), text=text))
        sound, word = first_sound(text, language), f"{language} {_first_word(text)}"
        begun[word] += 1
        if sound and begun[word] <= _PER_WORD:
            units[side].append(Opening(f"{side}/{name}", str(path), size, SOUNDS.index(sound)))
    return [
        Split(name, "speech", shuffled(some), list(SOUNDS), SHARD_UNITS, notes=[origin]) for name, some in units.items()
    ]
