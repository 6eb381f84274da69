import hashlib

import numpy as np

from data_shards.order.plain import EpochOrder, OrderConfig

COUNTS = np.array([100, 0, 37, 250, 1])


CONFIG = OrderConfig(seed=7, lanes=6, chunk=16, window=10)


def ids(config=CONFIG, epoch=0, counts=COUNTS):
    order = EpochOrder(counts, config, epoch)
    return order.ids(np.arange(config.lanes), 0, order.lane_length)


def test_golden_order():
    """Guards against a change of numpy's generator: another order means that no checkpoint resumes as it was."""
    assert hashlib.sha256(ids().astype("<i8").tobytes()).hexdigest()[:16] == "69b592c7d94c7c8c"


def test_the_order_is_what_it_says_it_is():
    """Chunks, permuted, laid end to end, cut into lanes, windows permuted: once more, one sample at a time."""

    def permutation(stream, block, count):
        words = np.random.Philox(key=[7, 0], counter=[0, 0, stream, block]).random_raw(count)
        return np.argsort(words, kind="stable").tolist()

    chunks, start = [], 0
    for count in COUNTS.tolist():
        chunks += [range(start + row, start + min(row + 16, count)) for row in range(0, count, 16)]
        start += count
    line = [sample for chunk in permutation(1, 0, len(chunks)) for sample in chunks[chunk]]
    expected = []
    for lane in range(6):
        positions = line[lane * 64 : (lane + 1) * 64]
        for window in range(0, 64, 10):
            part = positions[window : window + 10]
            expected += [part[i] for i in permutation(2 + lane, window // 10, len(part))]
    assert ids().ravel().tolist() == expected


def test_every_sample_at_most_once_and_fewer_than_lanes_left_out():
    drawn = ids()
    assert drawn.shape == (6, 388 // 6)
    assert len(np.unique(drawn)) == drawn.size
    assert drawn.min() >= 0 and drawn.max() < 388
    left_out = [set(range(388)) - set(ids(epoch=epoch).ravel().tolist()) for epoch in range(5)]
    assert all(len(left) == 388 % 6 for left in left_out)
    assert len(set.union(*left_out)) > 388 % 6  # others in another epoch


def test_any_cut_of_lanes_and_positions_gives_the_same_samples():
    whole = ids()
    order = EpochOrder(COUNTS, CONFIG, 0)
    for lanes in (np.array([0, 1]), np.array([5]), np.array([2, 3, 4])):
        for first, last in ((0, 1), (9, 11), (3, 47), (63, 64), (0, 64)):
            assert np.array_equal(order.ids(lanes, first, last), whole[lanes, first:last])


def test_epoch_and_seed_change_the_order():
    assert not np.array_equal(ids(), ids(epoch=1))
    assert not np.array_equal(ids(), ids(OrderConfig(8, 6, 16, 10)))


def test_samples_of_one_shard_are_spread():
    """100 shards of 100: a batch of 64 touches about as many shards as a uniform draw (47.4)."""
    drawn = ids(OrderConfig(0, 64, 16, 64), counts=np.full(100, 100))
    shards = [len(np.unique(step // 100)) for step in drawn.T]
    assert np.mean(shards) > 40


def test_what_replaces_a_position_comes_from_its_window_first():
    order = EpochOrder(COUNTS, CONFIG, 0)
    lane = ids()[2].tolist()
    assert list(order.replacements(2, 13)) == lane[14:20] + lane[10:13] + lane[20:] + lane[:10]
    assert list(order.replacements(2, 63)) == lane[60:63] + lane[:60], "the last window is shorter"
