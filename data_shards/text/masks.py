"""Masks of texts, and the corrupted texts that the student sees.

Spans (Baevski et al. 2020) are vectorised over the batch; single tokens (BERT) are spans of one. A mask is a pure
function of (seed, epoch, sample) and of the text.
"""

from __future__ import annotations

import numpy as np

from configs.schema_modalities import TextConfig
from configs.signals import UNK
from data_shards.randomness import Epochs, Stream, uniforms
from data_shards.spans import choose_positions, cover_spans


def token_masks(
    seed: int, epochs: Epochs, samples: np.ndarray, tokens: np.ndarray, lengths: np.ndarray, text: TextConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Return the masks bool [B, T] of texts int32 [B, T], and the texts that the student sees, int32 [B, T].

    lengths [B]: tokens of each text, two or more; one at least may be masked. A text with L tokens that may be masked
    gets floor(fraction / length * L + u) distinct spans, u uniform in [0, 1), and at least one. Spans are clipped at
    the end, and pass over tokens that may not be masked.
    """
    config, size = text.mask, tokens.shape[1]
    real = np.arange(size) < lengths[:, None]
    allowed = real if config.specials else real & (tokens >= UNK)
    assert lengths.min() >= 2 and allowed.any(1).all()
    length = 1 if config.kind == "tokens" else config.length
    draws = uniforms(seed, epochs, samples, Stream.MASK, 1 + size)
    count = (config.fraction / length * allowed.sum(1) + draws[:, 0]).astype(np.int64)
    chosen = allowed & cover_spans(choose_positions(draws[:, 1:], count, allowed), np.full(len(samples), length))
    whole = chosen.sum(1) == lengths
    chosen[whole, lengths[whole] - 1] = False  # one token stays visible
    return _corrupted(seed, epochs, samples, tokens, chosen, text)


def _corrupted(
    seed: int, epochs: Epochs, samples: np.ndarray, tokens: np.ndarray, chosen: np.ndarray, text: TextConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask of the `chosen` tokens that become <mask>, at least one, and the corrupted texts.

    Other chosen tokens stay, or become random tokens.
    """
    mask_id, config = text.vocab_size - 1, text.mask
    if config.kind == "spans":
        return chosen, np.where(chosen, np.int32(mask_id), tokens)
    draws = uniforms(seed, epochs, samples, Stream.REPLACE, 2 * tokens.shape[1]).reshape(*tokens.shape, 2)
    fate = np.where(chosen, draws[:, :, 0], -1.0)
    masked = fate >= np.minimum(config.random + config.keep, fate.max(1, keepdims=True))
    ordinary = (UNK + 1 + draws[:, :, 1] * (mask_id - UNK - 1)).astype(np.int32)
    seen = np.where(chosen & (fate < config.random), ordinary, tokens)
    return masked, np.where(masked, np.int32(mask_id), seen)


FEWEST_TOKENS = 3
"""Tokens of the shortest usable text: <s>, a token, </s>."""
