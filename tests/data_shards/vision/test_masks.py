import hashlib

import numpy as np
import pytest

from configs.schema_modalities import SpeechMaskConfig, TextConfig, TextMaskConfig, VisionConfig, VisionMaskConfig
from data_shards.batch import BOS, EOS, PAD
from data_shards.speech.masks import span_masks, trimmed
from data_shards.text.masks import token_masks
from data_shards.vision.masks import _rectangles, block_masks
from tests.data_shards.shard_tools import SMALL


def test_published_statistics():
    """At most 120 of 196 patches, 119.5 on average, exactly 120 in seven of ten (5,000 draws of the original code)."""
    counts = block_masks(0, 0, np.arange(5000), VisionConfig()).sum(1)
    assert counts.max() == 120
    assert counts.min() >= 104
    assert abs(counts.mean() - 119.5) < 0.1
    assert abs((counts == 120).mean() - 0.69) < 0.03


def test_no_block_spans_the_grid_and_blocks_are_rectangles():
    one_block = VisionConfig(mask=VisionMaskConfig(patches=60, min_block=60, max_block=60))
    masks = block_masks(0, 0, np.arange(500), one_block).reshape(-1, 14, 14)
    assert masks.any((1, 2)).all()
    sides = [(int(mask.any(1).sum()), int(mask.any(0).sum())) for mask in masks]
    blocks = [(h, w) for mask, (h, w) in zip(masks, sides, strict=True) if mask.sum() == h * w]
    assert len(blocks) > 300, "most masks are one block"
    assert max(max(block) for block in blocks) == 13


def test_positions_are_covered_evenly_from_side_to_side():
    frequency = block_masks(0, 0, np.arange(5000), VisionConfig()).mean(0).reshape(14, 14)
    assert abs(frequency - frequency[::-1]).max() < 0.05
    assert abs(frequency - frequency.T).max() < 0.05
    assert abs(frequency[0, 0] - 0.09) < 0.02 and abs(frequency.max() - 0.94) < 0.02  # as the original code's


def test_a_mask_depends_on_seed_epoch_and_sample_alone():
    masks = block_masks(5, 2, np.arange(64), VisionConfig())
    assert np.array_equal(masks[[40, 3, 17]], block_masks(5, 2, np.array([40, 3, 17]), VisionConfig()))
    for other in (block_masks(6, 2, np.arange(64), VisionConfig()), block_masks(5, 3, np.arange(64), VisionConfig())):
        assert (masks != other).any(1).all()


def test_a_small_grid():
    masks = block_masks(0, 0, np.arange(1000), SMALL)
    assert masks.shape == (1000, 49) and masks.dtype == bool
    assert masks.sum(1).max() == 30 and masks.sum(1).mean() > 29.8


def test_more_tries_than_are_drawn_at_once():
    """Blocks of one patch take many tries: the later ones come from draws of their own."""
    single = VisionConfig(mask=VisionMaskConfig(patches=100, min_block=1, max_block=1, min_aspect=1.0))
    masks = block_masks(0, 0, np.arange(20), single)
    assert (masks.sum(1) > 80).all() and (masks.sum(1) <= 100).all()
    assert np.array_equal(masks[7:8], block_masks(0, 0, np.array([7]), single))


def test_rectangles():
    assert _rectangles(3)[2][2] == 0b000_011_011
    assert _rectangles(3)[1][3] == 0b111


def spans(samples=500, frames=781, config=None, seed=0, epoch=0):
    """Masks of so many clips, of `frames` frames each or of the given numbers."""
    lengths = np.broadcast_to(frames, samples) if np.isscalar(frames) else np.array(frames)
    return span_masks(seed, epoch, np.arange(samples), lengths, config or SpeechMaskConfig())


def runs(mask):
    """Lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return edges[1::2] - edges[::2]


def test_published_statistics_of_speech_spans():
    """At 781 frames the union is 0.491 +- 0.024, its runs 14.7 on average, 10 in the median (the original code's)."""
    masks = spans()
    fraction = masks.mean(1)
    assert abs(fraction.mean() - 0.491) < 0.003 and abs(fraction.std() - 0.024) < 0.003
    found = np.concatenate([runs(mask) for mask in masks])
    assert abs(found.mean() - 14.7) < 0.3 and np.median(found) == 10 and found.min() == 10
    assert not masks[:, -1].any()
    assert masks[:, 20:-20].mean(0).std() < 0.03, "no place is preferred"


@pytest.mark.parametrize(("batch", "fraction"), [(4, 0.468), (8, 0.456), (16, 0.449)])
def test_published_statistics_of_the_trim(batch, fraction):
    masks = spans(480)
    cut = [masks[i : i + batch] for i in range(0, 480, batch)]
    cut = [trimmed(0, 0, np.arange(len(part)), part, np.full(len(part), part.sum(1).min())) for part in cut]
    assert all(len(set(part.sum(1).tolist())) == 1 for part in cut)
    assert not any((part & ~masks[i * batch : (i + 1) * batch]).any() for i, part in enumerate(cut))
    assert abs(np.mean([part.mean() for part in cut]) - fraction) < 0.005


@pytest.mark.parametrize("config", [SpeechMaskConfig(), SpeechMaskConfig(start=0.9), SpeechMaskConfig(0.01, 40)])
def test_short_clips_have_something_to_mask_and_something_to_see(config):
    lengths = np.arange(2, 60)
    masks = spans(len(lengths), lengths, config)
    assert (masks.sum(1) >= 1).all() and (masks.sum(1) < lengths).all()
    assert not any(mask[length:].any() for mask, length in zip(masks, lengths, strict=True))


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


def test_masks_of_spans_and_tokens_depend_on_seed_epoch_sample_and_length_alone():
    lengths, tokens = np.arange(40, 72), texts(32, 72)
    text = TextConfig(vocab_size=1000, mask=TextMaskConfig(kind="tokens"))

    def masks(rows, seed=5, epoch=2):
        size = lengths[rows].max()
        spoken = span_masks(seed, epoch, rows, lengths[rows], SpeechMaskConfig())
        return spoken, *token_masks(seed, epoch, rows, tokens[rows, :size], lengths[rows], text)

    rows = np.array([20, 3, 17])
    for whole, part in zip(masks(np.arange(32)), masks(rows), strict=True):
        assert np.array_equal(whole[rows][:, : part.shape[1]], part)
    for other in (masks(np.arange(32), seed=6), masks(np.arange(32), epoch=3)):
        assert all((a != b).any(1).mean() > 0.9 for a, b in zip(masks(np.arange(32)), other, strict=True))


def test_golden_masks():
    """Other masks mean that a resumed run is another one: label the commit `iteration order breaking`."""
    tokens = (4 + np.arange(8 * 64) * 7 % 900).astype(np.int32).reshape(8, 64)
    found = [spans(8, 200), trimmed(0, 0, np.arange(8), spans(8, 200), np.full(8, 40)), *masked_texts(tokens)]
    found += masked_texts(tokens, kind="tokens", fraction=0.15)
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in found))
    assert digest.hexdigest()[:16] == "1ad334956c570931"
