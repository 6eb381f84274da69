import numpy as np
import pytest

from data_shards.randomness import Stream, drawn, keys, uniforms


def test_golden_numbers():
    """Masks and augmentation of every run depend on these."""
    numbers = uniforms(1, 2, np.array([0, 123_456_789_012]), Stream.MASK, 2)
    assert numbers.tolist() == [[0.31099220627293855, 0.07611501198798876], [0.3000654965300822, 0.5532854346428123]]


def test_numbers_do_not_depend_on_the_batch_and_can_be_continued():
    whole = uniforms(0, 0, np.arange(10), Stream.CROP, 6)
    assert np.array_equal(whole[[7, 3]], uniforms(0, 0, np.array([7, 3]), Stream.CROP, 6))
    assert np.array_equal(whole[:, 4:], uniforms(0, 0, np.arange(10), Stream.CROP, 2, first=4))


def test_numbers_are_uniform_and_every_part_of_the_key_matters():
    samples = np.arange(5000)
    numbers = [uniforms(*key, 4).ravel() for key in (
        (0, 0, samples, Stream.CROP), (1, 0, samples, Stream.CROP), (0, 1, samples, Stream.CROP),
        (0, 0, samples + 1, Stream.CROP), (0, 0, samples, Stream.MASK),
    )]  # fmt: skip
    histogram = np.histogram(numbers[0], 10, (0, 1))[0]
    assert numbers[0].min() >= 0 and numbers[0].max() < 1
    assert abs(histogram - 2000).max() < 5 * np.sqrt(2000)
    assert abs(np.corrcoef(numbers) - np.eye(5)).max() < 0.03  # 1 / sqrt(20000) = 0.007


def test_samples_of_different_epochs():
    """The numbers of each are those that a batch of its own epoch gives it."""
    samples, epochs = np.array([5, 5, 8]), np.array([0, 3, 3])
    mixed = uniforms(4, epochs, samples, Stream.CROP, 3)
    assert np.array_equal(mixed[:1], uniforms(4, 0, samples[:1], Stream.CROP, 3))
    assert np.array_equal(mixed[1:], uniforms(4, 3, samples[1:], Stream.CROP, 3))


def plain_mix(x: int) -> int:
    """SplitMix64's finaliser on Python's integers."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def plain_key(*parts: int) -> int:
    key = 0
    for part in parts:
        key = plain_mix(((key ^ part) + 0x9E3779B97F4A7C15) % 2**64)
    return key


def test_drawn_numbers_are_those_of_splitmix64():
    """The numbers of seed 1234567 that implementations of SplitMix64 are compared by."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert drawn(np.array([1234567], np.uint64), 4)[0].tolist() == published


def test_keys_are_those_of_plain_integers():
    samples, epochs = np.array([0, 5, 123_456_789_012]), np.array([3, 0, 3])
    plain = [
        plain_key(2, epoch, sample, Stream.NOISE) for epoch, sample in zip((3, 0, 3), samples.tolist(), strict=True)
    ]
    assert keys(2, epochs, samples, Stream.NOISE).tolist() == plain
    of_masks = [[plain_mix(((key ^ m) + 0x9E3779B97F4A7C15) % 2**64) for m in range(5)] for key in plain]
    assert keys(2, epochs, samples, Stream.NOISE, 5).tolist() == of_masks


def test_golden_keys():
    assert keys(1, 2, np.array([3]), Stream.MASK, 2).tolist() == [[18018334613102724306, 13705636380077823489]]


def test_every_mask_of_every_sample_epoch_seed_and_purpose_has_its_own_key():
    found = [
        keys(seed, epoch, np.arange(100), stream, masks)
        for seed in (0, 1) for epoch in (0, 1) for stream in Stream for masks in (0, 16)
    ]  # fmt: skip
    assert len(np.unique(np.concatenate([some.ravel() for some in found]))) == 4 * len(Stream) * 100 * 17


@pytest.mark.parametrize("first", [0, 7, 2**32])
def test_drawn_numbers_depend_neither_on_the_other_keys_nor_on_how_many_are_asked_for(first):
    some = keys(0, 0, np.arange(10), Stream.MASK)
    whole = drawn(some, 6, first)
    assert whole.shape == (10, 6) and whole.dtype == np.uint64
    assert np.array_equal(whole[[7, 3], :4], drawn(some[[7, 3]], 4, first))
    assert np.array_equal(whole[:, 4:], drawn(some, 2, first + 4))
    assert len(np.unique([whole, drawn(some, 6, first + 6)])) == 120


def test_every_bit_of_a_mask_s_numbers_is_set_half_the_time():
    """Masks take the upper 31 bits: 40,000 numbers of neighbouring masks, within 5 deviations."""
    numbers = drawn(keys(0, 0, np.arange(625), Stream.MASK, 16).reshape(-1), 4).reshape(-1)
    bits = (numbers[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert bits.mean(0) == pytest.approx(np.full(64, 0.5), abs=5 * 0.5 / np.sqrt(40_000))
