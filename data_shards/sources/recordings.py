"""source=audiofolder: recordings of any format -> FLAC, mono, 16 kHz, with transcripts and classes if there are any.

A folder has class folders, or is flat. Its transcripts are those of LibriSpeech (FOLDER/*.trans.txt with lines
`NAME text`), or NAME.txt beside a recording.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from configs.schema_commands import BuildConfig
from configs.signals import SAMPLE_RATE
from data_shards.sources.folders import (
    SourceFile,
    Walk,
    class_names,
    extension,
    fitting_keys,
    keys_of,
    shuffled,
)
from data_shards.sources.media import Encoded, MediaModality, Members, media_of
from data_shards.sources.stores import DamagedMember, Entry, Store
from data_shards.sources.units import LeftOut, Split, Unit
from data_shards.speech.audio import AUDIO_EXTENSIONS, Recording, flac, is_stored_form, read_recording

_KINDS = " ".join(AUDIO_EXTENSIONS)
_FLAC_RATIO = {
    "flac": 1.0,
    "mp3": 4.0,
    "ogg": 4.0,
    "oga": 4.0,
    "opus": 6.0,
}  # bytes of FLAC per source byte; other formats are PCM: 0.5


_READING = 2  # version of the decoding; a change makes shards of recordings unfinished


@dataclass(frozen=True)
class Recordings:
    """Recordings become FLAC, mono, 16 kHz: one sample each, or one per piece."""

    min_seconds: float = 0.0
    segment_seconds: float | None = None
    modality: ClassVar[MediaModality] = "speech"
    extensions: ClassVar[tuple[str, ...]] = AUDIO_EXTENSIONS
    noun: ClassVar[str] = "recording"

    def facts(self, suffix: str, size: int, modified: int, label: int | None, text: str | None) -> tuple:
        how = (self.min_seconds, self.segment_seconds, _READING)
        return (suffix.lower().lstrip("."), size, modified, label, text, *how)

    def stored_size(self, size: int, extension: str, label: int | None) -> int:
        return 2048 + int(size * _FLAC_RATIO.get(extension, 0.5))

    def samples(self, encoded: Encoded, left_out: LeftOut) -> Iterator[tuple[str, Members]]:
        try:
            recording = read_recording(encoded.data)  # even if the bytes are stored unchanged: nothing damaged gets in
        except ValueError as error:
            left_out.add("damaged or no audio", f"{encoded.place} ({error})")
            return
        if self._usable(recording, encoded.place, left_out):
            yield from self._stored(encoded, recording.samples)

    def _usable(self, recording: Recording, place: str, left_out: LeftOut) -> bool:
        """True if a recording can be used; adds it to `left_out` if it cannot be, or not as it was."""
        if len(recording.samples) < self.min_seconds * SAMPLE_RATE:
            left_out.add(f"shorter than min_seconds={self.min_seconds:g}", place)
        elif recording.cancels:
            left_out.add("channels that cancel each other to silence; keep one of them", place)
        else:
            if recording.clipped:
                left_out.add_kept("louder than full scale, clipped", f"{place} ({recording.clipped} samples)")
            return True
        return False

    def _stored(self, encoded: Encoded, audio: np.ndarray) -> Iterator[tuple[str, Members]]:
        """Yield key and members of each piece. The bytes are stored as they are if they have the form for that."""
        pieces = self._pieces(audio, whole=encoded.text is not None)
        as_is = len(pieces) == 1 and is_stored_form(encoded.data)
        for number, piece in enumerate(pieces):
            key = encoded.key if len(pieces) == 1 else f"{encoded.key}/piece{number:04d}"
            yield key, {"flac": encoded.data if as_is else flac(piece), **encoded.others()}

    def _pieces(self, audio: np.ndarray, whole: bool) -> list[np.ndarray]:
        """Equal parts of at most `segment_seconds`. A recording with a transcript stays whole."""
        if self.segment_seconds is None or whole:
            return [audio]
        return np.array_split(audio, max(1, -(-len(audio) // int(self.segment_seconds * SAMPLE_RATE))))


def _said(texts: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Transcripts by the recording's name without extension. texts: name and content of each .txt file of a folder."""
    whole: dict[str, str] = {}
    lines: dict[str, str] = {}
    for name, text in texts:
        whole[name.removesuffix(".txt")] = text.strip()
        if name.endswith(".trans.txt"):
            lines |= {key: said for key, _, said in (line.partition(" ") for line in text.splitlines())}
    return whole | lines


def _transcripts(folder: Path, left_out: LeftOut) -> dict[str, str]:
    """Transcripts in a folder, by the recording's name without extension."""
    texts = []
    for path in sorted(folder.glob("*.txt")):
        try:
            texts.append((path.name, path.read_text("utf-8", "replace")))
        except OSError as error:
            left_out.add_unreadable(f"{path} (transcripts)", error)
    return _said(texts)


def _stored_transcripts(store: Store, entries: list[Entry], left_out: LeftOut) -> dict[str, dict[str, str]]:
    """Transcripts in a store, by folder, and there by the recording's name without extension."""
    texts: dict[str, list[tuple[str, str]]] = {}
    for entry in sorted(entries):
        if entry.problem or not entry.name.endswith(".txt"):
            continue
        folder, _, name = entry.name.rpartition("/")
        try:
            texts.setdefault(folder, []).append((name, store.read(entry.name).decode("utf-8", "replace")))
        except DamagedMember as error:
            left_out.add("damaged in the archive", f"{entry.name} (transcripts; {error})")
    return {folder: _said(own) for folder, own in texts.items()}


def _stored(store: Store, walk: Walk) -> tuple[list[SourceFile], list[str | None], list[str | None]]:
    """(recordings of a store, their texts, names of their classes)."""
    entries = list(store.entries())
    files, texts = list(walk.stored_files(store, entries)), _stored_transcripts(store, entries, walk.left_out)
    labelled = bool(class_names(Path(store.location), files))
    said = [texts.get(f.stored.rpartition("/")[0], {}).get(Path(f.parts[-1]).stem) for f in files]
    return files, said, [file.parts[0] if labelled else None for file in files]


def _folder(root: Path, walk: Walk, left_out: LeftOut) -> tuple[list[SourceFile], list[str | None], list[str | None]]:
    """(recordings of a folder, their texts, names of their classes)."""
    files = list(walk.files(root))
    texts: list[str | None] = []
    known: dict[Path, dict[str, str]] = {}
    for file in files:
        path = Path(file.path)
        if path.parent not in known:
            known[path.parent] = _transcripts(path.parent, left_out)
        texts.append(known[path.parent].get(path.stem))
    labelled = bool(class_names(root, files))
    return files, texts, [file.parts[0] if labelled else None for file in files]


def audio_folder(root: Path, config: BuildConfig, store: Store | None = None) -> Split:
    """Split of the recordings of a folder, or of a store that is read in place. Raises ValueError if there are none."""
    left_out = LeftOut()
    walk = Walk(lambda name: extension(name) in AUDIO_EXTENSIONS, _KINDS, left_out, ignored=("txt",))
    files, texts, labels = _folder(root, walk, left_out) if store is None else _stored(store, walk)
    if not files:
        raise ValueError(
            "; ".join([f"input={store.location if store else root} holds no recording ({_KINDS})", *left_out.notes()])
        )
    classes = sorted({label for label in labels if label is not None})
    number = {name: i for i, name in enumerate(classes)}
    kind = Recordings(config.min_seconds, config.segment_seconds)
    units: list[Unit] = []
    keys = fitting_keys(keys_of(files), files, lambda _: "/piece0000.flac", left_out)
    for key, file, text, label in zip(keys, files, texts, labels, strict=True):
        numbered = None if label is None else number[label]
        units.append(media_of(key, file, kind, numbered, text))
    return Split(config.name, "speech", shuffled(units), classes, left_out=left_out)
