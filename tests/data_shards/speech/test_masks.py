"""Spans of speech: the published shares, and what short clips keep."""

import hashlib

import numpy as np
import pytest

from configs.schema_modalities import SpeechMaskConfig
from data_shards.speech.masks import span_masks, trimmed
from tests.data_shards.shard_tools import runs


def spans(samples=500, frames=781, config=None, seed=0, epoch=0):
    """Masks of so many clips, of `frames` frames each or of the given numbers."""
    lengths = np.broadcast_to(frames, samples) if np.isscalar(frames) else np.array(frames)
    return span_masks(seed, epoch, np.arange(samples), lengths, config or SpeechMaskConfig())


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


def test_masks_depend_on_seed_epoch_sample_and_length_alone():
    lengths = np.arange(40, 72)

    def masks(rows, seed=5, epoch=2):
        return span_masks(seed, epoch, rows, lengths[rows], SpeechMaskConfig())

    rows, whole = np.array([20, 3, 17]), masks(np.arange(32))
    part = masks(rows)
    assert np.array_equal(whole[rows][:, : part.shape[1]], part)
    for other in (masks(np.arange(32), seed=6), masks(np.arange(32), epoch=3)):
        assert (whole != other).any(1).mean() > 0.9


def test_golden_masks():
    """Other masks mean that a resumed run is another one: label the commit `iteration order breaking`."""
    found = [spans(8, 200), trimmed(0, 0, np.arange(8), spans(8, 200), np.full(8, 40))]
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in found))
    assert digest.hexdigest()[:16] == "cc55b8ee82923b52"
