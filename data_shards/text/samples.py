"""Text: stored token sequences, windows of sequences that are too long, and masked batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from configs.modality_config import ModalityConfig
from data_shards.batch import PAD, UNK, MaskedBatch, SampleBatch, TokenSpan
from data_shards.randomness import Epochs
from data_shards.request import Neighbours
from data_shards.shards.bad_sample import BadSample, find_member
from data_shards.shards.tar import Members
from data_shards.spans import noise_keys, several_masks
from data_shards.text.masks import FEWEST_TOKENS, token_masks
from data_shards.text.tokens import TOKEN_EXTENSION, read_tokens


def window(tokens: np.ndarray, limit: int, place: float) -> np.ndarray:
    """Return at most `limit` tokens: the first, the last, and a window of the tokens between them.

    place: in [0, 1), the window's place in its range.
    """
    if len(tokens) <= limit:
        return tokens
    first = 1 + int(place * (len(tokens) - limit + 1))
    return np.concatenate([tokens[:1], tokens[first : first + limit - 2], tokens[-1:]])


class Texts:
    """Texts of a run: members of a sample -> token ids -> masked batch."""

    draws = 1
    """Uniform numbers that loading takes: the window's place."""

    def __init__(self, config: ModalityConfig) -> None:
        self.text, self.seed, self.masks = config.text, config.seed, config.masks

    def load(self, members: Members, draws: np.ndarray, limit: int) -> np.ndarray:
        """Return int32 [T <= limit], a window at a random place. Raises BadSample if there are no usable ids."""
        return self._ids(members, limit, draws[0])

    def load_whole(self, members: Members) -> np.ndarray:
        """Return the ids for evaluation; only the beginning of a text longer than `text.max_tokens`."""
        return self._ids(members, self.text.max_tokens, 0.0)

    def _ids(self, members: Members, limit: int, place: float) -> np.ndarray:
        data = find_member(members, (TOKEN_EXTENSION,), f"token ids (.{TOKEN_EXTENSION})")
        try:
            tokens = read_tokens(data)
        except ValueError as error:
            raise BadSample("decode", f"not decodable: {error}") from error
        ids = window(tokens, limit, place)
        if len(ids) < FEWEST_TOKENS or not (ids >= UNK).any():
            raise BadSample("too_short", f"an empty text: {len(tokens)} tokens, <s> and </s> included")
        if (largest := int(ids.max())) >= self.text.vocab_size:
            raise BadSample("decode", f"token {largest}, and text.vocab_size={self.text.vocab_size}")
        return ids.astype(np.int32)

    def masked(
        self, epochs: Epochs, samples: np.ndarray, loaded: list[np.ndarray], _: Neighbours | None
    ) -> MaskedBatch:
        """Return the batch of these samples, int64 [B], with their masks."""
        lengths, tokens = self._padded(loaded)
        if self.masks is not None:
            masks = torch.from_numpy(several_masks(self.seed, epochs, samples, lengths, self.masks))
            noise = torch.from_numpy(noise_keys(self.seed, epochs, samples, self.masks.count))
            return MaskedBatch(**self._fields(samples, lengths, tokens), masks=masks, noise_keys=noise)
        mask, corrupted = token_masks(self.seed, epochs, samples, tokens, lengths, self.text)
        return MaskedBatch(
            **self._fields(samples, lengths, tokens),
            masks=torch.from_numpy(mask[:, None]),
            corrupted=torch.from_numpy(corrupted[:, None]),
        )

    def unmasked(self, samples: np.ndarray, loaded: list[np.ndarray], epochs: Epochs | None = None) -> SampleBatch:
        """Return the batch of these samples, int64 [B]; `epochs` has no effect here."""
        return SampleBatch(**self._fields(samples, *self._padded(loaded)))

    def _padded(self, loaded: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return the lengths int64 [B] and the ids int32 [B, T], <pad> behind a text's end."""
        lengths = np.array([len(ids) for ids in loaded])
        tokens = np.full((len(loaded), lengths.max()), PAD, np.int32)
        for row, ids in zip(tokens, loaded, strict=True):
            row[: len(ids)] = ids
        return lengths, tokens

    def _fields(self, samples: np.ndarray, lengths: np.ndarray, tokens: np.ndarray) -> dict[str, Any]:
        return {
            "modality": "text",
            "inputs": torch.from_numpy(tokens),
            "lengths": torch.from_numpy(lengths),
            "sample_ids": torch.from_numpy(samples),
            "span": TokenSpan(1, 1),
        }
