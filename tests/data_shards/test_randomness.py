import numpy as np

from data_shards.randomness import Stream, uniforms


def test_golden_numbers():
    """Masks and augmentation of every run depend on these."""
    drawn = uniforms(1, 2, np.array([0, 123_456_789_012]), Stream.MASK, 2)
    assert drawn.tolist() == [[0.31099220627293855, 0.07611501198798876], [0.3000654965300822, 0.5532854346428123]]


def test_numbers_do_not_depend_on_the_batch_and_can_be_continued():
    whole = uniforms(0, 0, np.arange(10), Stream.CROP, 6)
    assert np.array_equal(whole[[7, 3]], uniforms(0, 0, np.array([7, 3]), Stream.CROP, 6))
    assert np.array_equal(whole[:, 4:], uniforms(0, 0, np.arange(10), Stream.CROP, 2, first=4))


def test_numbers_are_uniform_and_every_part_of_the_key_matters():
    samples = np.arange(5000)
    drawn = [uniforms(*key, 4).ravel() for key in (
        (0, 0, samples, Stream.CROP), (1, 0, samples, Stream.CROP), (0, 1, samples, Stream.CROP),
        (0, 0, samples + 1, Stream.CROP), (0, 0, samples, Stream.MASK),
    )]  # fmt: skip
    histogram = np.histogram(drawn[0], 10, (0, 1))[0]
    assert drawn[0].min() >= 0 and drawn[0].max() < 1
    assert abs(histogram - 2000).max() < 5 * np.sqrt(2000)
    assert abs(np.corrcoef(drawn) - np.eye(5)).max() < 0.03  # 1 / sqrt(20000) = 0.007


def test_samples_of_different_epochs():
    """The numbers of each are those that a batch of its own epoch gives it."""
    samples, epochs = np.array([5, 5, 8]), np.array([0, 3, 3])
    mixed = uniforms(4, epochs, samples, Stream.CROP, 3)
    assert np.array_equal(mixed[:1], uniforms(4, 0, samples[:1], Stream.CROP, 3))
    assert np.array_equal(mixed[1:], uniforms(4, 3, samples[1:], Stream.CROP, 3))
