"""Masks of text: the published shares of spans and of single tokens, and what is never masked."""

import hashlib

import numpy as np
import pytest

from configs.schema_modalities import TextConfig, TextMaskConfig
from data_shards.batch import BOS, EOS, PAD
from data_shards.text.masks import token_masks
from tests.data_shards.speech.test_masks import runs


def texts(samples=2000, size=512, vocab=1000):
    """int32 texts of <s>, ordinary tokens, </s>."""
    tokens = np.random.default_rng(0).integers(4, vocab - 1, (samples, size)).astype(np.int32)
    tokens[:, 0], tokens[:, -1] = BOS, EOS
    return tokens


def masked_texts(tokens, lengths=None, vocab=1000, **mask):
    lengths = np.full(len(tokens), tokens.shape[1]) if lengths is None else lengths
    text = TextConfig(vocab_size=vocab, mask=TextMaskConfig(**mask))
    return token_masks(0, 0, np.arange(len(tokens)), tokens, lengths, text)


@pytest.mark.parametrize("specials", [True, False])
def test_published_statistics_of_text_spans(specials):
    """The union is 0.307 of the tokens; <s> and </s> among them where `specials`."""
    tokens = texts()
    mask, seen = masked_texts(tokens, specials=specials)
    assert abs(mask.mean() - 0.307) < 0.003
    assert mask[:, [0, -1]].any() == specials
    assert (seen[mask] == 999).all() and (seen[~mask] == tokens[~mask]).all()
    inner = np.concatenate([runs(row)[1:-1] for row in mask])
    assert inner.min() == 4


def test_published_statistics_of_single_tokens():
    """15 % of the tokens: of them 80 % <mask>, 10 % random, 10 % as they are; those two have no target."""
    tokens = texts(vocab=5000)
    mask, seen = masked_texts(tokens, vocab=5000, kind="tokens", fraction=0.15)
    changed = (seen != tokens) & ~mask
    assert abs(mask.mean() - 0.12) < 0.002 and abs(changed.mean() - 0.015) < 0.001
    assert (seen[mask] == 4999).all()
    assert seen[changed].min() >= 4 and seen[changed].max() <= 4998
    assert abs(seen[changed].mean() - 2501) < 50
    assert not (mask | changed)[:, [0, -1]].any()


@pytest.mark.parametrize("kind", ["tokens", "spans"])
@pytest.mark.parametrize("specials", [True, False])
def test_texts_of_any_length_have_a_target_and_padding_none(kind, specials):
    lengths = np.arange(3, 40).repeat(20)
    tokens = texts(len(lengths), 40)
    tokens[np.arange(len(lengths)), lengths - 1] = EOS
    tokens[np.arange(40) >= lengths[:, None]] = PAD
    tokens[-1, 5] = EOS  # two documents joined
    mask, seen = masked_texts(tokens, lengths, kind=kind, specials=specials, fraction=0.6, length=8)
    assert mask.any(1).all() and (mask.sum(1) < lengths).all()
    assert (seen[mask] == 999).all()
    forbidden = (tokens == PAD) if specials else (tokens < 4)
    assert not mask[forbidden].any() and (seen[forbidden] == tokens[forbidden]).all()


@pytest.mark.parametrize("kind", ["tokens", "spans"])
def test_masks_depend_on_seed_epoch_sample_and_length_alone(kind):
    lengths, tokens = np.arange(40, 72), texts(32, 72)
    text = TextConfig(vocab_size=1000, mask=TextMaskConfig(kind=kind))

    def masks(rows, seed=5, epoch=2):
        return token_masks(seed, epoch, rows, tokens[rows, : lengths[rows].max()], lengths[rows], text)

    rows, everything = np.array([20, 3, 17]), masks(np.arange(32))
    for whole, part in zip(everything, masks(rows), strict=True):
        assert np.array_equal(whole[rows][:, : part.shape[1]], part)
    for other in (masks(np.arange(32), seed=6), masks(np.arange(32), epoch=3)):
        assert all((a != b).any(1).mean() > 0.9 for a, b in zip(everything, other, strict=True))


def test_golden_masks():
    """Other masks mean that a resumed run is another one: label the commit `iteration order breaking`."""
    tokens = (4 + np.arange(8 * 64) * 7 % 900).astype(np.int32).reshape(8, 64)
    found = [*masked_texts(tokens), *masked_texts(tokens, kind="tokens", fraction=0.15)]
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in found))
    assert digest.hexdigest()[:16] == "92c2effd313c7d94"
