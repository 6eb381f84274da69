"""Speech: decoding, the statistics of a recording, crops, and masked batches."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from configs.modality_config import ModalityConfig
from configs.schema_modalities import SpeechConfig
from data_shards.batch import (
    FRAME_STRIDE,
    RECEPTIVE_FIELD,
    MaskedBatch,
    SampleBatch,
    TokenSpan,
    frames,
    samples_of,
)
from data_shards.randomness import Epochs
from data_shards.request import Neighbours
from data_shards.shards.bad_sample import BadSample, find_member
from data_shards.shards.tar import Data, Members
from data_shards.spans import noise_keys, several_masks
from data_shards.speech.audio import AUDIO_EXTENSIONS, read_audio, read_part
from data_shards.speech.decoder import TooLong
from data_shards.speech.masks import FEWEST_FRAMES, fewest_masked, span_masks, trimmed

_BLOCK = 1 << 20  # samples whose sums are taken at once
_EPS = 1e-5 * 32768**2
"""Added to the variance of int16 samples: layer normalisation's 1e-5 of a waveform in [-1, 1], as published."""


class Clip(NamedTuple):
    """A crop of a recording."""

    samples: np.ndarray
    """int16 [S]; S is the smallest number of samples that gives the crop's frames."""
    scale: tuple[float, float]
    """Mean of the samples, and 1 / their standard deviation, over the whole recording or over the crop."""


def decode(data: Data, speech: SpeechConfig, limit: int, place: float) -> Clip:
    """Decode a crop of at most `limit` frames, at `place` (see `crop_of`), with statistics for normalisation.

    The statistics are of the crop or of the recording (`speech.normalise`). Raises BadSample if the bytes cannot be
    decoded, are too short to be masked, or are longer than allowed.
    """
    try:
        if speech.normalise == "crop":
            samples = read_part(data, lambda count: crop_of(_usable(count), limit, place), speech.max_recording_seconds)
            return Clip(samples, statistics(samples))
        samples = read_audio(data, speech.max_recording_seconds)
    except TooLong as error:
        raise BadSample("too_long", f"speech.max_recording_seconds: {error}") from error
    except ValueError as error:
        raise BadSample("decode", f"not decodable: {error}") from error
    return Clip(samples[crop_of(_usable(len(samples)), limit, place)], statistics(samples))


def _usable(count: int) -> int:
    """Return the number of samples. Raises BadSample if they are too few to be masked."""
    if frames(count) < FEWEST_FRAMES:
        fewest = samples_of(FEWEST_FRAMES)
        raise BadSample("too_short", f"{count} samples at 16 kHz, fewer than the {fewest} of {FEWEST_FRAMES} frames")
    return count


def statistics(samples: np.ndarray) -> tuple[float, float]:
    """Return the mean of int16 samples, and 1 / their standard deviation."""
    total = squares = 0
    for start in range(0, len(samples), _BLOCK):
        values = samples[start : start + _BLOCK].astype(np.int32)  # sums of whole numbers are exact in any order
        total += int(values.sum(dtype=np.int64))
        squares += int(np.square(values, out=values).sum(dtype=np.int64))
    mean, square = total / len(samples), squares / len(samples)
    return mean, (square - mean**2 + _EPS) ** -0.5


def crop_of(count: int, limit: int, place: float) -> slice:
    """Return the slice of at most `limit` frames of `count` samples; `place` in [0, 1) chooses its beginning."""
    length = samples_of(min(frames(count), limit))
    # Last samples that give no frame of their own are cut off, but may come into a crop.
    first = int(place * (count - length + 1)) if frames(count) > limit else 0
    return slice(first, first + length)


def _padded(samples: np.ndarray, length: int) -> np.ndarray:
    """Return the samples with zeros behind them, int16 [length]."""
    return np.concatenate([samples, np.zeros(length - len(samples), np.int16)]) if len(samples) < length else samples


class Clips:
    """Recordings of a run: members of a sample -> crop -> masked batch."""

    draws = 1
    """Uniform numbers that loading takes: the crop's place."""

    def __init__(self, config: ModalityConfig) -> None:
        self.speech, self.seed, self.masks = config.speech, config.seed, config.masks

    def load(self, members: Members, draws: np.ndarray, limit: int) -> Clip:
        """Decode a crop of at most `limit` frames at a random place. Raises BadSample as `decode` does."""
        return self._clip(members, limit, draws[0])

    def load_whole(self, members: Members) -> Clip:
        """Decode a recording for evaluation; only the middle if it is longer than `speech.max_seconds`."""
        return self._clip(members, self.speech.longest, 0.5)

    def _clip(self, members: Members, limit: int, place: float) -> Clip:
        return decode(find_member(members, AUDIO_EXTENSIONS, "recording"), self.speech, limit, place)

    def masked(
        self, epochs: Epochs, samples: np.ndarray, loaded: list[Clip], neighbours: Neighbours | None
    ) -> MaskedBatch:
        """Return the batch of these samples, int64 [B], with their masks.

        With `neighbours`, no clip has more masked frames than the neighbour that has the fewest.
        """
        lengths = np.array([frames(len(clip.samples)) for clip in loaded])
        if self.masks is not None:
            masks = several_masks(self.seed, epochs, samples, lengths, self.masks)
            noise = torch.from_numpy(noise_keys(self.seed, epochs, samples, self.masks.count))
            return MaskedBatch(**self._fields(samples, loaded), masks=torch.from_numpy(masks), noise_keys=noise)
        masks = span_masks(self.seed, epochs, samples, lengths, self.speech.mask)
        if neighbours is not None:
            fewest = fewest_masked(self.seed, neighbours, self.speech.mask)
            masks = trimmed(self.seed, epochs, samples, masks, fewest)
        return MaskedBatch(**self._fields(samples, loaded), masks=torch.from_numpy(masks[:, None]))

    def unmasked(self, samples: np.ndarray, loaded: list[Clip], epochs: Epochs | None = None) -> SampleBatch:
        """Return the batch of these samples, int64 [B]; `epochs` has no effect here."""
        return SampleBatch(**self._fields(samples, loaded))

    def _fields(self, samples: np.ndarray, loaded: list[Clip]) -> dict[str, Any]:
        lengths = np.array([frames(len(clip.samples)) for clip in loaded])
        longest = samples_of(int(lengths.max()))
        return {
            "modality": "speech",
            "inputs": torch.from_numpy(np.stack([_padded(clip.samples, longest) for clip in loaded])),
            "lengths": torch.from_numpy(lengths),
            "sample_ids": torch.from_numpy(samples),
            "scale": torch.tensor([clip.scale for clip in loaded], dtype=torch.float32),
            "span": TokenSpan(RECEPTIVE_FIELD, FRAME_STRIDE),
        }
