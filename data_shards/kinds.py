"""What differs between modalities in shards: the one `match` on the modality of this package."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from configs.schema_modalities import Modality
from configs.signals import FRAME_STRIDE, SAMPLE_RATE
from data_shards.shards.tar import Data
from data_shards.speech.audio import AUDIO_EXTENSIONS, audio_length
from data_shards.text.tokens import TOKEN_EXTENSION, token_count
from data_shards.vision.decoding import IMAGE_EXTENSIONS, image_length


class _Unit(NamedTuple):
    """What lengths of a modality are in words."""

    name: str
    one: float
    """So many of the name's in one of the index."""
    total: str
    total_one: float


_UNITS: dict[Modality | None, _Unit] = {
    "vision": _Unit("megapixels", 1e-3, "megapixels", 1e-3),
    "speech": _Unit("seconds", FRAME_STRIDE / SAMPLE_RATE, "hours", FRAME_STRIDE / SAMPLE_RATE / 3600),
    "text": _Unit("tokens", 1, "tokens", 1),
    None: _Unit("(unit unknown)", 1, "(unit unknown)", 1),
}


def modality_of(members: Collection[str]) -> Modality | None:
    """What a sample is, as the extensions of its members tell; None where they do not."""
    kinds: tuple[tuple[Modality, tuple[str, ...]], ...] = (
        ("vision", IMAGE_EXTENSIONS), ("speech", AUDIO_EXTENSIONS), ("text", (TOKEN_EXTENSION,))
    )  # fmt: skip
    return next((modality for modality, known in kinds if any(extension in members for extension in known)), None)


def length_of(members: Mapping[str, Data]) -> int:
    """What a sample is bucketed by (see `index.ROW`), from the header of its member; 0 where unreadable."""
    kinds: tuple[tuple[tuple[str, ...], Callable[[Data], int]], ...] = (
        (IMAGE_EXTENSIONS, image_length),
        (AUDIO_EXTENSIONS, audio_length),
        ((TOKEN_EXTENSION,), token_count),
    )
    found = next(((read, members[e]) for extensions, read in kinds for e in extensions if e in members), None)
    if found is None:
        return 0
    read, data = found
    try:
        return min(read(data), 2**32 - 1)
    except Exception:  # codecs raise anything on damaged bytes; the reader deals with the sample when it comes
        return 0
