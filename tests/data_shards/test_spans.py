"""Positions that are chosen, and spans that begin there."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from configs.published import MultiMasks
from data_shards.randomness import Stream, drawn
from data_shards.randomness import keys as mask_keys
from data_shards.spans import centred_blocks, choose_positions, cover_spans, exactly, noise_keys, several_masks


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
BASE_SPEECH, BASE_TEXT = MultiMasks(8, 0.5, 0.05, 5), MultiMasks(8, 0.48, 0.0, 1)
LARGE_SPEECH = MultiMasks(12, 0.55, 0.1, 5)
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
    wanted = size - config.hidden(size, True) if grid else config.hidden(size, False)
    area = config.block**2 if grid else config.block
    chosen = plain_blocks(rng, size, int(size * (share + config.adjust) / area), config.block, grid)
    while chosen.sum() != wanted:
        more = chosen.sum() < wanted
        chosen[rng.choice(np.flatnonzero(chosen != more))] = more
    return ~chosen if grid else chosen


@pytest.mark.parametrize(
    ("config", "size", "grid"),
    [(BASE_IMAGES, 196, 14), (LARGE_IMAGES, 196, 14), (BASE_SPEECH, 60, 0), (LARGE_SPEECH, 97, 0)],
)
def test_masks_hide_each_position_and_pair_as_often_as_plain_ones(config, size, grid):
    """4,800 masks each: frequencies of positions and of neighbours, neighbours in a mask, within 4.5 deviations."""
    count = 4800
    ours = masks_of(config, np.full(count // config.count, size), grid).reshape(count, size)
    rng = np.random.default_rng(0)
    plain = np.stack([plain_mask(rng, config, size, grid) for _ in range(count)])
    for of in (lambda m: m, lambda m: m[:, 1:] & m[:, :-1]):
        a, b = of(ours).mean(0), of(plain).mean(0)
        deviation = np.sqrt((a * (1 - a) + b * (1 - b)) / count)
        assert (abs(a - b) < 4.5 * deviation + 1e-9).all()
    a, b = ((masks[:, 1:] & masks[:, :-1]).sum(1) for masks in (ours, plain))
    assert abs(a.mean() - b.mean()) < 4.5 * np.sqrt((a.var() + b.var()) / count), "neighbours in a mask: blocks"


def test_text_hides_each_token_and_each_pair_as_often_as_chance():
    """29 of 60, without replacement: each token with 29 / 60, each pair with 29 x 28 / (60 x 59)."""
    masks = masks_of(BASE_TEXT, np.full(1000, 60)).reshape(8000, 60).astype(float)
    assert masks.mean(0) == pytest.approx(np.full(60, 29 / 60), abs=4.5 * np.sqrt(0.25 / 8000))
    pairs = (masks.T @ masks / 8000)[np.triu_indices(60, 1)]
    assert pairs == pytest.approx(np.full(len(pairs), 29 * 28 / (60 * 59)), abs=5 * np.sqrt(0.18 / 8000))


def test_masks_of_a_sample_of_neighbours_and_of_epochs_share_nothing():
    """Two independent masks that hide 29 of 60 tokens hide 29 x 29 / 60 in common."""
    now, later = (masks_of(BASE_TEXT, np.full(2001, 60), epoch=epoch)[:, :2].astype(float) for epoch in (4, 5))
    expected, deviation = 29 * 29 / 60, np.sqrt(60 * (29 / 60 * 31 / 60) ** 2 * 60 / 59 / 2000)
    for other in (now[:-1, 1], now[1:, 0], later[:-1, 0]):
        assert (now[:-1, 0] * other).sum(1).mean() == pytest.approx(expected, abs=4.5 * deviation)


@pytest.mark.parametrize("config", [LARGE_SPEECH, BASE_TEXT])
def test_a_mask_depends_neither_on_the_order_of_its_batch_nor_on_longer_mates(config):
    samples, epochs = np.array([7, 123_456_789_012, 0, 7, 31]), np.array([2, 0, 5, 3, 2])
    lengths = np.array([60, 41, 2, 60, 350])
    batch = several_masks(9, epochs, samples, lengths, config)
    order = np.array([3, 0, 4, 1, 2])
    assert np.array_equal(batch[order], several_masks(9, epochs[order], samples[order], lengths[order], config))
    for i, n in enumerate(lengths.tolist()):
        alone = several_masks(9, int(epochs[i]), samples[i : i + 1], lengths[i : i + 1], config)[0]
        assert np.array_equal(batch[i, :, :n], alone)
    assert not np.array_equal(batch[0], batch[3]), "the same sample in another epoch"


@pytest.mark.parametrize("config", [BASE_SPEECH, BASE_TEXT, MultiMasks(8, 0.99, 0.5, 5), MultiMasks(8, 0.01, 0, 1)])
def test_of_two_tokens_one_is_hidden_now_this_now_that(config):
    masks = masks_of(config, np.full(200, 2))
    assert (masks.sum(-1) == 1).all() and masks[..., 0].mean() == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("block", [9, 10, 11, 1000])
def test_a_block_as_long_as_the_clip_leaves_the_number_exact(block):
    masks = masks_of(MultiMasks(4, 0.5, 0.1, block), np.full(500, 10))
    assert (masks.sum(-1) == 5).all()
    assert (masks.mean((0, 1)) > 0.3).all(), "no place is left out"


@pytest.mark.parametrize("block", [1, 5])
def test_a_clip_hides_as_many_frames_as_the_configuration_says(block):
    config = MultiMasks(3, 0.55, 0.1, block)
    for length in (2, 49, 101, 749):
        masks = masks_of(config, np.array([length]))
        assert set(masks.sum(-1).ravel().tolist()) == {config.hidden(length, image=False)}


def test_a_single_mask_and_the_huge_grid():
    one = masks_of(replace(BASE_IMAGES, count=1), PATCHES, 14)
    assert one.shape == (40, 1, 196) and np.array_equal(one[:, 0], masks_of(BASE_IMAGES, PATCHES, 14)[:, 0])
    assert (masks_of(LARGE_IMAGES, np.full(5, 256), 16).sum(-1) == 192).all()


def test_the_numbers_that_place_blocks_are_not_those_that_order_positions():
    """A block's centre does not depend on the number of any position: correlations of 4,000 masks."""
    key = mask_keys(0, 0, np.arange(4000), Stream.MASK, 1).reshape(-1)
    order = drawn(key, 40) >> np.uint64(11)
    block = centred_blocks(key, 40, np.full(4000, 40), np.ones(4000, int), 1, 0).argmax(1)
    assert abs(np.corrcoef(order.T.astype(float), block)[-1, :-1]).max() < 4.5 / np.sqrt(4000)


def test_exactly_chooses_what_a_sort_chooses():
    """Of few different numbers, so that equal ones are common."""
    rng = np.random.default_rng(3)
    order, lengths = rng.integers(0, 6, (200, 20)).astype(np.uint32), rng.integers(2, 21, 200)
    order[::7] = np.iinfo(np.uint32).max
    count = rng.integers(1, lengths)
    expected = np.zeros((200, 20), bool)
    for row, (k, n) in enumerate(zip(count, lengths, strict=True)):
        expected[row, sorted(range(n), key=lambda position, row=row: (order[row, position], position))[:k]] = True
    assert np.array_equal(exactly(order, count, lengths), expected)


def test_masks_of_data2vec_2_never_change():
    found = [(BASE_IMAGES, PATCHES[:5], 14), (BASE_SPEECH, np.array([60, 41]), 0), (BASE_TEXT, np.array([16, 9]), 0)]
    packed = [np.packbits(masks_of(*given, seed=3, epoch=2)).tobytes() for given in found]
    digests = [hashlib.sha256(masks).hexdigest()[:16] for masks in packed]
    assert digests == ["ba88b96769355ee5", "cbea0c6143028382", "d86038e6f25c76cd"]


def test_every_mask_has_a_key_of_noise_of_its_own():
    keys = noise_keys(0, np.arange(50), np.arange(50), 16)
    assert keys.shape == (50, 16) and keys.dtype == np.int64 and len(np.unique(keys)) == 800
    assert np.array_equal(noise_keys(0, 7, np.array([7]), 3)[0], keys[7, :3])
    others = [noise_keys(*given, 16) for given in ((1, np.arange(50), np.arange(50)), (0, 99, np.arange(50)))]
    assert len(np.unique([keys, *others])) == 2400, "another seed, another epoch"
    assert (keys.view(np.uint64) != mask_keys(0, np.arange(50), np.arange(50), Stream.MASK, 16)).all()


def test_even_blocks_reach_one_further_in_front():
    key, one = np.array([5], np.uint64), np.array([1])
    line = centred_blocks(key, 20, np.array([20]), one, 4, 0)[0]
    single = centred_blocks(key, 20, np.array([20]), one, 1, 0)[0].argmax()
    assert line.nonzero()[0].tolist() == [p for p in range(single - 2, single + 2) if 0 <= p < 20]
