"""Cards: a sample as a run decodes, augments and masks it, with its key and labels; or why it cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from torch import Tensor

from configs.modality_config import ModalityConfig
from data_shards.batch import MaskedBatch
from data_shards.kinds import Kind, SampleKind, kind_of
from data_shards.loading.labels import read_label, read_transcript
from data_shards.randomness import Stream, uniforms
from data_shards.shards.bad_sample import BadSample
from data_shards.shards.index import Index
from data_shards.shards.reader import Reader
from data_shards.shards.storage import name_of
from data_shards.shards.tar import Data, Members
from data_shards.showing.pictures import PICTURE_SIDE, images, spectrograms
from data_shards.showing.tokens import Decode, Token, marked_tokens
from data_shards.vision.decoding import decode

_MASKS = 4  # pictures of an image under its masks, at most
_EPOCH = 0
"""The epoch whose crops and masks are shown."""
_LARGEST = 256
"""Most pixels of a side of an image as decoded."""
_LONGEST = 400
"""Most characters of a transcript."""


@dataclass(frozen=True)
class Picture:
    """A picture with its title."""

    title: str
    pixels: np.ndarray
    """uint8 [h, w, 3]."""


@dataclass(frozen=True)
class Card:
    """One sample."""

    key: str
    """The key; for a damaged sample as far as it can be read."""
    shard: str
    """Name of its shard."""
    facts: tuple[str, ...] = ()
    """Lines: length, members, label, transcript."""
    pictures: tuple[Picture, ...] = ()
    wide: bool = False
    """True if the pictures are spectrograms, which are to stand one below the other."""
    sound: np.ndarray | None = None
    """int16 [S] at 16 kHz: the crop that a run takes of a recording."""
    tokens: tuple[Token, ...] = ()
    damage: str = ""
    """Reason why the sample cannot be used; "" if it can."""


class Drawing:
    """Cards of the samples of an index: those of epoch 0 of a run with this configuration."""

    def __init__(self, index: Index, config: ModalityConfig, decode_tokens: Decode) -> None:
        self._index, self._config, self._decode_tokens = index, config, decode_tokens
        self._kind: Kind = kind_of(config.modality)
        self._samples: SampleKind = self._kind.samples(config)
        self._reader = Reader(index, 1, config.data.max_sample_mb)

    def cards(self, samples: Sequence[int]) -> Iterator[Card]:
        """Yield the card of each sample. Raises Unreachable as `Reader.read`."""
        with closing(self._reader):
            for sample in samples:
                yield self._card(sample)

    def _card(self, sample: int) -> Card:
        shard, row = self._index.locate(sample)
        name = name_of(self._index.paths[shard])
        key, facts = "", tuple[str, ...]()
        try:
            key, members = self._reader.read(sample)
            facts = self._label_facts(members)
            batch = self._masked(sample, members)
        except BadSample as error:
            return Card(key or self._reader.report(sample, error).sample, name, facts, damage=str(error))
        return self._drawn(Card(key, name, facts), batch, self._kind.content(members), self._length(shard, row))

    def _masked(self, sample: int, members: Members) -> MaskedBatch:
        """Make the batch of one sample as a loader's worker does."""
        ids = np.array([sample])
        draws = uniforms(self._config.seed, _EPOCH, ids, Stream.CROP, self._samples.draws)
        loaded = self._samples.load(members, draws[0], self._config.longest or 0)
        return self._samples.masked(_EPOCH, ids, [loaded], None)

    def _length(self, shard: int, row: int) -> int:
        """Return the sample's length by the index."""
        return int(self._index.rows(shard)["length"][row])

    def _drawn(self, card: Card, batch: MaskedBatch, data: Data, length: int) -> Card:
        """Add what there is to see and to hear."""
        pictures: tuple[Picture, ...]
        match batch.modality:
            case "vision":
                pixels, whole = decode(data, self._config.vision), images(batch).whole
                pictures = (
                    Picture("decoded", _thumbnail(pixels)),
                    _picture("augmented", whole),
                    *(_picture("masked", images(batch, m).masked) for m in range(min(_MASKS, batch.masks.shape[1]))),
                )
                first, card = f"{pixels.shape[1]} x {pixels.shape[0]} pixels", replace(card, pictures=pictures)
            case "speech":
                whole, masked = spectrograms(batch)
                pictures = _picture("spectrogram", whole), _picture("masked", masked)
                card = replace(card, pictures=pictures, wide=True, sound=batch.inputs[0].numpy())
                first = self._taken(batch, length)
            case "text":
                first, card = self._taken(batch, length), replace(card, tokens=self._of_text(batch))
        share = f"{int(batch.masks[0, 0].sum())} of {batch.counts.tokens} {_TOKENS[batch.modality]} are masked"
        share += f" by each of {batch.masks.shape[1]} masks" * (batch.masks.shape[1] > 1)
        return replace(card, facts=(f"{first}; {share}", *card.facts))

    def _of_text(self, batch: MaskedBatch) -> tuple[Token, ...]:
        rows = batch.inputs[0], batch.seen_ids[0], batch.masks[0, 0]
        true, seen, masked = (row.tolist() for row in rows)
        return tuple(marked_tokens(true, seen, masked, self._decode_tokens))

    def _taken(self, batch: MaskedBatch, length: int) -> str:
        """Return words for the sample's length, and for the part that a run takes if it takes less."""
        unit, taken = self._kind.unit, int(batch.lengths[0])
        words = f"{length * unit.one:,.6g} {unit.name}"
        return f"{words}, of which a run takes {taken * unit.one:,.6g}" if taken < length else words

    def _label_facts(self, members: Members) -> tuple[str, ...]:
        """Return lines about the members, the class and the transcript."""
        listed = ", ".join(f".{name} ({len(data):,} B)" for name, data in sorted(members.items()))
        facts = [f"members: {listed}"]
        if "cls" in members:
            facts.append(_told(lambda: f"class {self._class(read_label(members))}"))
        if "txt" in members:
            facts.append(_told(lambda: f"transcript: {_shortened(read_transcript(members))}"))
        return tuple(facts)

    def _class(self, number: int) -> str:
        names = self._index.classes
        return f"{number}: {names[number]}" if 0 <= number < len(names) else f"{number}, which has no name"


_TOKENS = {"vision": "patches", "speech": "frames", "text": "tokens"}


def _told(fact: Callable[[], str]) -> str:
    """Return a fact, or the reason why it cannot be read."""
    try:
        return fact()
    except BadSample as error:
        return str(error)


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."


def _picture(title: str, pixels: Tensor) -> Picture:
    """Picture of uint8 [1, 3, h, w]."""
    return Picture(title, pixels[0].permute(1, 2, 0).contiguous().numpy())


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Whole image uint8 [H, W, 3], reduced to at most `_LARGEST` pixels a side, or enlarged by a whole factor."""
    longest = max(pixels.shape[:2])
    if longest < PICTURE_SIDE:
        factor = -(-PICTURE_SIDE // longest)
        return pixels.repeat(factor, 0).repeat(factor, 1)
    image = Image.fromarray(pixels)
    image.thumbnail((_LARGEST, _LARGEST))
    return np.asarray(image)
