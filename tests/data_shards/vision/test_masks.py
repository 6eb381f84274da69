import numpy as np

from configs.schema_modalities import VisionConfig, VisionMaskConfig
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
