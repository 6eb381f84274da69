"""The differences between modalities in shards and batches: one frozen object for each modality.

`kind_of` is the only `match` on the modality in this package, but for that of the pictures in `showing/`. torch is not
imported here, so that building shards does not wait for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from configs.modality_config import ModalityConfig
from configs.schema_modalities import MODALITIES, Modality
from configs.signals import FRAME_STRIDE, SAMPLE_RATE
from data_shards.randomness import Epochs
from data_shards.request import Neighbours
from data_shards.shards.bad_sample import find_member
from data_shards.shards.index import Index
from data_shards.shards.tar import Data, Members
from data_shards.speech.audio import AUDIO_EXTENSIONS, audio_length, decoded_length, silent
from data_shards.speech.masks import FEWEST_FRAMES
from data_shards.text.masks import FEWEST_TOKENS
from data_shards.text.stored_tokenizer import check_tokenizer
from data_shards.text.tokens import TOKEN_EXTENSION, check_tokens, empty, token_count
from data_shards.vision.decoding import decoded_pixels, image_length, one_colour
from data_shards.vision.formats import IMAGE_EXTENSIONS

if TYPE_CHECKING:
    from data_shards.batch import MaskedBatch, SampleBatch


class SampleKind(Protocol):
    """The way from a sample's bytes to a batch. Each modality has its own type of a loaded sample."""

    draws: int
    """Uniform numbers that loading a sample takes."""

    def load(self, members: Members, draws: np.ndarray, limit: int) -> Any:
        """Decode a sample and crop it at random to `limit` tokens (0: no limit). Raises BadSample."""

    def load_whole(self, members: Members) -> Any:
        """Decode a sample for evaluation, nothing in it random. Raises BadSample."""

    def masked(
        self, epochs: Epochs, samples: np.ndarray, loaded: list[Any], neighbours: Neighbours | None
    ) -> MaskedBatch:
        """Return the masked batch of loaded samples; `epochs` and `neighbours` as in `Request`."""

    def unmasked(self, samples: np.ndarray, loaded: list[Any], epochs: Epochs | None = None) -> SampleBatch:
        """Return the batch of loaded samples without masks.

        epochs: draw the rest of the augmentation as for training, as in `Request`; None: leave it out, for evaluation.
        """


@dataclass(frozen=True)
class Unit:
    """Units in which a modality's lengths are printed."""

    name: str
    """The unit of one sample's length."""
    one: float
    """`length` (a column of the index) times this is in `name`."""
    total: str
    """The unit of all lengths together."""
    total_one: float
    """`length` times this is in `total`."""
    summary: str = ""
    """Format of the total for the line that ends a build; "" leaves it out."""


_TINY = 2  # thousand pixels
UNKNOWN_UNIT = Unit("(unit unknown)", 1, "(unit unknown)", 1)


def _no_flaw(data: Data) -> str:
    """Find nothing."""
    return ""


def _nothing_to_check(config: ModalityConfig, index: Index) -> None:
    """Accept any index."""


@dataclass(frozen=True)
class Kind:
    """One modality's samples."""

    modality: Modality
    noun: str
    """The member that holds the sample, for messages."""
    extensions: tuple[str, ...]
    """Extensions of that member. The first one that is present is read."""
    length: Callable[[Data], int]
    """Read a sample's `length` (a column of the index, see `sidecar.ROW`) from the member's header. Raises any
    exception for damaged bytes."""
    decode: Callable[[Data, int | None], int]
    """Decode the member and return its true `length`. Second argument: vocabulary size of the shards' tokenizer, or
    None. Raises any exception for damaged bytes."""
    unit: Unit
    fewest_tokens: int
    """Tokens of the shortest sample that can be used."""
    samples: Callable[[ModalityConfig], SampleKind]
    small: int = 0
    """Largest `length` of a sample that is too small to teach much."""
    small_words: str = ""
    """Words for such samples."""
    flaw: Callable[[Data], str] = _no_flaw
    """Decode the member and return the reason why it can teach nothing, "" if it may. Raises any exception for damaged
    bytes."""
    check_index: Callable[[ModalityConfig, Index], None] = _nothing_to_check
    """Raise ValueError if shards do not fit the configuration."""

    def member(self, members: Mapping[str, Data]) -> Data | None:
        """Return the member that holds the sample; None if there is none."""
        return next((members[extension] for extension in self.extensions if extension in members), None)

    def content(self, members: Members) -> Data:
        """Return the member that holds the sample. Raises BadSample if there is none."""
        return find_member(members, self.extensions, self.noun)


def _image_samples(config: ModalityConfig) -> SampleKind:
    from data_shards.vision.samples import Images  # torch takes seconds to import

    return Images(config)


def _speech_samples(config: ModalityConfig) -> SampleKind:
    from data_shards.speech.samples import Clips

    return Clips(config)


def _text_samples(config: ModalityConfig) -> SampleKind:
    from data_shards.text.samples import Texts

    return Texts(config)


def kind_of(modality: Modality) -> Kind:
    """Return the kind of a modality's samples."""
    match modality:
        case "vision":
            return Kind(
                modality=modality,
                noun="image",
                extensions=IMAGE_EXTENSIONS,
                length=image_length,
                decode=lambda data, _: decoded_pixels(data),
                unit=Unit("megapixels", 1e-3, "megapixels", 1e-3),
                fewest_tokens=1,
                samples=_image_samples,
                small=_TINY,
                small_words=f"images of at most {1000 * _TINY:,} pixels, about {math.isqrt(1000 * _TINY)} a side",
                flaw=lambda data: "of one colour" * one_colour(data),
            )
        case "speech":
            seconds = FRAME_STRIDE / SAMPLE_RATE
            return Kind(
                modality=modality,
                noun="recording",
                extensions=AUDIO_EXTENSIONS,
                length=audio_length,
                decode=lambda data, _: decoded_length(data),
                unit=Unit("seconds", seconds, "hours", seconds / 3600, "{:,.2f} hours"),
                fewest_tokens=FEWEST_FRAMES,
                samples=_speech_samples,
                small=FEWEST_FRAMES - 1,
                small_words="recordings too short to be masked, which a run replaces",
                flaw=lambda data: "silent" * silent(data),
            )
        case "text":
            return Kind(
                modality=modality,
                noun=f"token ids (.{TOKEN_EXTENSION})",
                extensions=(TOKEN_EXTENSION,),
                length=token_count,
                decode=check_tokens,
                unit=Unit("tokens", 1, "tokens", 1, "{:,.0f} tokens"),
                fewest_tokens=FEWEST_TOKENS,
                samples=_text_samples,
                small=FEWEST_TOKENS - 1,
                small_words="empty texts, which a run replaces",
                flaw=lambda data: "without a word" * empty(data),
                check_index=check_tokenizer,
            )


KINDS = tuple(kind_of(modality) for modality in MODALITIES)


def modality_of(members: Collection[str]) -> Modality | None:
    """Return the modality that the extensions of a sample's members belong to; None if they belong to none."""
    return next((kind.modality for kind in KINDS if any(name in members for name in kind.extensions)), None)


def measure(members: Mapping[str, Data]) -> tuple[int, str]:
    """Return a sample's `length` (a column of the index, see `sidecar.ROW`) from its header, and "".

    If the length cannot be read: 0, and the reason.
    """
    for kind in KINDS:
        for extension in kind.extensions:
            if extension in members:
                try:
                    return min(kind.length(members[extension]), 2**32 - 1), ""
                except Exception as error:  # codecs raise anything on damaged bytes
                    return 0, f".{extension}: {error}"
    return 0, nothing_known(members)


def nothing_known(members: Collection[str]) -> str:
    """Return words for a sample that has no member of any modality."""
    return f"no image, recording or token ids among its members: {', '.join(sorted(members))}"


def length_of(members: Mapping[str, Data]) -> int:
    """Return a sample's `length` from its header; 0 if unreadable: the reader deals with it when it comes."""
    return measure(members)[0]
