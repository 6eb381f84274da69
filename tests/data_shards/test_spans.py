"""Positions that are chosen, and spans that begin there."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from configs.modality_config import MultiMasks
from data_shards.spans import centred_blocks, choose_positions, cover_spans, noise_keys, several_masks


def test_so_many_of_the_allowed_positions_are_chosen():
    allowed = np.array([[True] * 6, [True, False] * 3, [False] * 5 + [True]])
    chosen = choose_positions(np.random.default_rng(0).random((3, 6)), np.array([4, 2, 3]), allowed)
    assert chosen.sum(1).tolist() == [4, 2, 1], "all where there are fewer"
    assert not (chosen & ~allowed).any()


def test_the_smallest_draws_are_chosen():
    draws = np.array([[0.4, 0.1, 0.3, 0.2]])
    assert choose_positions(draws, np.array([2]), np.ones((1, 4), bool)).tolist() == [[False, True, False, True]]
    allowed = np.array([[True, False, True, True]])
    assert choose_positions(draws, np.array([2]), allowed).tolist() == [[False, False, True, True]]


def test_every_position_is_chosen_as_often():
    draws = np.random.default_rng(1).random((20_000, 8))
    share = choose_positions(draws, np.full(20_000, 3), np.ones((20_000, 8), bool)).mean(0)
    assert share == pytest.approx(np.full(8, 3 / 8), abs=0.015)


def test_spans_cover_what_a_loop_covers():
    rng = np.random.default_rng(2)
    starts, length = rng.random((50, 30)) < 0.15, rng.integers(1, 9, 50)
    expected = np.zeros_like(starts)
    for row, column in zip(*np.nonzero(starts), strict=True):
        expected[row, column : column + length[row]] = True
    assert np.array_equal(cover_spans(starts, length), expected)


BASE_IMAGES, LARGE_IMAGES = MultiMasks(16, 0.8, 0.07, 3), MultiMasks(16, 0.75, 0.1, 3)
BASE_SPEECH, BASE_TEXT = MultiMasks(8, 0.5, 0.1, 5), MultiMasks(8, 0.48, 0.0, 1)
PATCHES = np.full(40, 196)


def masks_of(config: MultiMasks, lengths: np.ndarray, grid: int = 0, seed: int = 0, epoch: int = 0) -> np.ndarray:
    return several_masks(seed, epoch, np.arange(len(lengths)), lengths, config, grid)


@pytest.mark.parametrize(("config", "hidden"), [(BASE_IMAGES, 157), (LARGE_IMAGES, 147)])
def test_images_hide_exactly_the_published_number_of_patches(config, hidden):
    masks = masks_of(config, PATCHES, 14)
    assert masks.shape == (40, 16, 196) and (masks.sum(-1) == hidden).all()


def test_speech_and_text_hide_exact_numbers_and_nothing_behind_the_end():
    lengths = np.array([2, 3, 49, 100, 781, 999])
    speech, text = masks_of(BASE_SPEECH, lengths), masks_of(BASE_TEXT, lengths)
    assert (speech.sum(-1) == np.maximum(1, (0.5 * lengths).astype(int))[:, None]).all()
    assert ((lengths[:, None] - text.sum(-1)) == np.maximum(1, np.floor(lengths * 0.52))[:, None]).all()
    assert not any(masks[i, :, n:].any() for masks in (speech, text) for i, n in enumerate(lengths))


def test_a_share_that_leaves_a_whole_number_loses_none_to_rounding():
    """100 * (1 - 0.9) is 9.999999999999998."""
    assert (masks_of(MultiMasks(2, 0.9, 0, 1), np.array([100])).sum(-1) == 90).all()


@pytest.mark.parametrize(
    ("config", "lengths", "grid"),
    [(BASE_IMAGES, PATCHES[:3], 14), (BASE_SPEECH, np.array([60, 41, 99]), 0), (BASE_TEXT, np.array([16, 9, 30]), 0)],
)
def test_several_masks_are_functions_of_seed_epoch_sample_and_number(config, lengths, grid):
    whole = masks_of(config, lengths, grid)
    alone = several_masks(0, 0, np.array([1]), lengths[1:2], config, grid)
    assert np.array_equal(whole[1, :, : lengths[1]], alone[0])
    fewer = several_masks(0, 0, np.array([1]), lengths[1:2], replace(config, count=3), grid)
    assert np.array_equal(fewer[0], alone[0, :3])
    for other in (masks_of(config, lengths, grid, seed=1), masks_of(config, lengths, grid, epoch=1)):
        assert not np.array_equal(whole, other)
    assert len({mask.tobytes() for mask in whole.reshape(-1, whole.shape[-1])}) == 3 * config.count


def plain_blocks(rng, size: int, centres: int, block: int, grid: int) -> np.ndarray:
    """Blocks of one mask, position by position."""
    marked = np.zeros(size, bool)
    for centre in rng.integers(0, size, centres):
        for dy in range(-(block // 2), block - block // 2) if grid else [0]:
            for dx in range(-(block // 2), block - block // 2):
                y, x = (centre // grid + dy, centre % grid + dx) if grid else (0, centre + dx)
                if 0 <= x < (grid or size) and (not grid or 0 <= y < grid):
                    marked[y * grid + x] = True
    return marked


def plain_mask(rng, config: MultiMasks, size: int, grid: int) -> np.ndarray:
    """One mask as reference material gives it: blocks, then single positions until the number is exact."""
    share = 1 - config.fraction if grid else config.fraction
    wanted = config.visible(size) if grid else config.hidden(size)
    area = config.block**2 if grid else config.block
    chosen = plain_blocks(rng, size, int(size * (share + config.adjust) / area), config.block, grid)
    while chosen.sum() != wanted:
        more = chosen.sum() < wanted
        chosen[rng.choice(np.flatnonzero(chosen != more))] = more
    return ~chosen if grid else chosen


@pytest.mark.parametrize(
    ("config", "size", "grid"), [(BASE_IMAGES, 196, 14), (LARGE_IMAGES, 196, 14), (BASE_SPEECH, 60, 0)]
)
def test_masks_hide_each_position_and_pair_as_often_as_plain_ones(config, size, grid):
    """Frequencies of 4,800 masks each: by position, and of two neighbours at once, within 4.5 deviations."""
    count = 4800
    ours = masks_of(config, np.full(count // config.count, size), grid).reshape(count, size)
    rng = np.random.default_rng(0)
    plain = np.stack([plain_mask(rng, config, size, grid) for _ in range(count)])
    for of in (lambda m: m, lambda m: m[:, 1:] & m[:, :-1]):
        a, b = of(ours).mean(0), of(plain).mean(0)
        deviation = np.sqrt((a * (1 - a) + b * (1 - b)) / count)
        assert (abs(a - b) < 4.5 * deviation + 1e-9).all()


def test_masks_of_data2vec_2_never_change():
    found = [(BASE_IMAGES, PATCHES[:5], 14), (BASE_SPEECH, np.array([60, 41]), 0), (BASE_TEXT, np.array([16, 9]), 0)]
    packed = [np.packbits(masks_of(*given, seed=3, epoch=2)).tobytes() for given in found]
    digests = [hashlib.sha256(masks).hexdigest()[:16] for masks in packed]
    assert digests == ["ba88b96769355ee5", "9b03775c066514e3", "d86038e6f25c76cd"]


def test_every_mask_has_a_key_of_noise_of_its_own():
    keys = noise_keys(0, np.arange(50), np.arange(50), 16)
    assert keys.shape == (50, 16) and keys.dtype == np.int64 and len(np.unique(keys)) == 800
    assert np.array_equal(noise_keys(0, 7, np.array([7]), 3)[0], keys[7, :3])


def test_even_blocks_reach_one_further_in_front():
    key, one = np.array([5], np.uint64), np.array([1])
    line = centred_blocks(key, 20, np.array([20]), one, 4, 0)[0]
    single = centred_blocks(key, 20, np.array([20]), one, 1, 0)[0].argmax()
    assert line.nonzero()[0].tolist() == [p for p in range(single - 2, single + 2) if 0 <= p < 20]
