"""Shards in Python: `ShardWriter` writes them, `send_shards` sends them to a store, `open_shards` reads them.

from data_shards.api import ShardWriter, open_shards, send_shards
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from configs.schema_modalities import Modality
from configs.schema_training import Patterns
from data_shards.kinds import modality_of
from data_shards.making.shard_writer import ShardWriter
from data_shards.sending.send import send_shards
from data_shards.shards.bad_sample import BadSample, find_member
from data_shards.shards.index import Index, load_index
from data_shards.shards.reader import Reader
from data_shards.shards.tar import Data, Members
from data_shards.speech.audio import AUDIO_EXTENSIONS, read_audio
from data_shards.text.tokens import TOKEN_EXTENSION, read_tokens
from data_shards.vision.decoding import decode
from data_shards.vision.formats import IMAGE_EXTENSIONS

__all__ = ["OpenShards", "ShardSample", "ShardWriter", "open_shards", "send_shards"]


@dataclass(frozen=True)
class ShardSample:
    """A sample as it is stored. What is decoded raises ValueError if it is not there or damaged."""

    key: str
    members: Members
    """Bytes by extension, without the dot."""

    @property
    def modality(self) -> Modality | None:
        """Modality by the extensions; None if it is none."""
        return modality_of(self.members)

    @property
    def cls(self) -> int | None:
        """Number of the class; None without."""
        return int(self.members["cls"]) if "cls" in self.members else None

    @property
    def txt(self) -> str | None:
        """Caption or transcript; None without."""
        return bytes(self.members["txt"]).decode() if "txt" in self.members else None

    def image(self) -> np.ndarray:
        """The decoded image, uint8 RGB [H, W, 3]."""
        return self._decoded(IMAGE_EXTENSIONS, "image", decode)

    def audio(self) -> np.ndarray:
        """The decoded recording, int16 [S], mono at 16 kHz."""
        return self._decoded(AUDIO_EXTENSIONS, "recording", read_audio)

    def tokens(self) -> np.ndarray:
        """The token ids, unsigned [T]."""
        return self._decoded((TOKEN_EXTENSION,), "token ids", read_tokens)

    def _decoded(self, extensions: tuple[str, ...], noun: str, function: Callable[[Data], np.ndarray]) -> np.ndarray:
        try:
            return function(find_member(self.members, extensions, noun))
        except BadSample as error:
            raise ValueError(f"sample {self.key!r}: {error}") from None


class OpenShards(Sequence[ShardSample]):
    """Samples of shards, in the order in which they are stored."""

    def __init__(self, index: Index) -> None:
        """index: of the shards."""
        self._index, self._reader = index, Reader(index)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by their numbers."""
        return self._index.classes

    def __len__(self) -> int:
        return self._index.samples

    @overload
    def __getitem__(self, number: int) -> ShardSample: ...
    @overload
    def __getitem__(self, number: slice) -> list[ShardSample]: ...
    def __getitem__(self, number: int | slice) -> ShardSample | list[ShardSample]:
        """Return a sample, or a list of them for a slice.

        Raises ValueError if its bytes are not those that were indexed, OSError or `Unreachable` if they cannot be read.
        """
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)}")
        try:
            key, members = self._reader.read(number % len(self))
        except BadSample as error:
            raise ValueError(str(self._reader.report(number % len(self), error))) from None
        return ShardSample(key, members)


def open_shards(shards: Patterns) -> OpenShards:
    """Open local or remote shards: a folder, a glob or braces, or a tuple of them. Raises ValueError as a run does."""
    return OpenShards(load_index(shards))
