import hashlib
import pickle
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from data_shards.loading.loader import open_loader
from data_shards.order.cursor import Cursor
from data_shards.order.length_bins import Bins, Lengths, equal_tokens, micro_batch_slices, straggler_share
from data_shards.order.plain import EpochOrder, OrderConfig, PlainOrder
from data_shards.shards.index import load_index
from data_shards.shards.sidecar import ROW
from tests.data_shards.shard_tools import make_shards, small_config

COUNTS = np.array([700, 0, 1300])
LENGTHS = (20 + np.arange(2000) * 7919 % 997).astype(np.uint32)  # 20 to 1016 tokens


def bins_of(equal="samples", per_lane=4, window=32, longest=800):
    config = OrderConfig(7, 8, 16, window)
    lengths = LENGTHS.astype(np.int64).__getitem__
    return Bins(PlainOrder(COUNTS, config), lengths, Cursor(config, per_lane, 250, "", equal, longest))


def epoch_of(bins, epoch=0):
    first = epoch * bins.cursor.steps_per_epoch
    steps = [bins.step(first + i) for i in range(bins.cursor.steps_per_epoch)]
    assert all((step.epochs == epoch).all() for step in steps)
    return steps


@pytest.mark.parametrize("equal", ["samples", "tokens"])
def test_a_window_keeps_its_samples_and_its_number_of_steps(equal):
    """Bins only deal a window's samples to its steps: windows of 8 steps of 32 samples, the last of 6."""
    bins = bins_of(equal)
    steps = epoch_of(bins)
    assert len(steps) == 62 == 250 // 4
    order = EpochOrder(COUNTS, bins.cursor.order, 0)
    for first in range(0, 62, 8):
        part = steps[first : first + 8]
        samples = sorted(chain.from_iterable(step.samples.tolist() for step in part))
        whole = order.ids(np.arange(8), 4 * first, 4 * (first + len(part)))
        assert samples == sorted(whole.ravel().tolist())
    for step in steps[:9]:
        places = zip(step.lanes, step.positions, strict=True)
        assert [order.ids(np.array([lane]), at, at + 1)[0, 0] for lane, at in places] == step.samples.tolist()


def test_steps_are_of_one_length():
    steps = epoch_of(bins_of())
    assert all(len(step.samples) == 32 for step in steps)
    for step in steps:
        assert step.lengths.tolist() == sorted(np.minimum(LENGTHS[step.samples], 800).tolist(), reverse=True)
    spread = [step.lengths[0] - step.lengths[-1] for step in steps]
    assert np.mean(spread) < 997 / 8, "a window has 8 bins"
    firsts = [step.lengths[0] for step in steps[:8]]
    assert firsts != sorted(firsts) and firsts != sorted(firsts, reverse=True)


def test_steps_of_equal_tokens():
    bins = bins_of("tokens", per_lane=16, window=64)
    sizes = [len(step.samples) for step in epoch_of(bins)]
    assert len(sizes) == 15 and all(size % 8 == 0 for size in sizes)
    assert max(sizes) > 2 * min(sizes), "short samples come in greater numbers"
    tokens = np.array([step.lengths.sum() for step in epoch_of(bins)])
    assert tokens.std() / tokens.mean() < 0.1
    equal_samples = np.array([step.lengths.sum() for step in epoch_of(bins_of("samples", 16, 64))])
    assert equal_samples.std() / equal_samples.mean() > 0.3


@pytest.mark.parametrize("tokens", [[1] * 8, [1000, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1000], [0] * 8])
def test_no_bin_is_empty(tokens):
    for bins in (1, 3, 8):
        edges = equal_tokens(np.array(tokens), bins)
        assert len(edges) == bins + 1 and edges[0] == 0 and edges[-1] == 8 and (np.diff(edges) > 0).all()


def test_golden_bins():
    """Guards the order of speech and text, as the golden order that of images."""
    first, second = epoch_of(bins_of()), epoch_of(bins_of("tokens"), 1)
    samples = np.concatenate([step.samples for step in (*first, *second)])
    assert hashlib.sha256(samples.astype("<i8").tobytes()).hexdigest()[:16] == "13ba9b14f1d52a24"


def test_any_step_is_found_without_those_before():
    steps = epoch_of(bins_of(), 1)
    for number in (61, 0, 17):
        step = bins_of().step(62 + number)
        assert all(map(np.array_equal, step, steps[number]))


def test_micro_batches_are_cut_from_the_longest():
    lengths = np.array([90, 90, 50, 50, 40, 40, 10, 10, 10, 10, 10, 10])
    assert micro_batch_slices(lengths, 1, 4, None) == [slice(0, 4), slice(4, 8), slice(8, 12)]
    assert micro_batch_slices(lengths, 1, 100, 100) == [
        slice(0, 1),
        slice(1, 2),
        slice(2, 4),
        slice(4, 6),
        slice(6, 12),
    ]
    assert micro_batch_slices(lengths, 2, 100, 100) == [slice(0, 1), slice(1, 3), slice(3, 6)]
    assert micro_batch_slices(lengths, 2, 2, 100) == [slice(0, 1), slice(1, 3), slice(3, 5), slice(5, 6)]
    with pytest.raises(ValueError, match=r"batch\.micro_tokens=89 .* 90 tokens: set batch\.micro_tokens=90"):
        micro_batch_slices(lengths, 1, 4, 89)


def test_waiting_is_for_the_rank_with_the_most_positions():
    lengths = np.array([10, 5, 4, 4, 3, 1])
    assert straggler_share(lengths, [slice(0, 3)], 2) == pytest.approx(1 - (3 * 10 + 3 * 5) / (2 * 3 * 10))
    assert straggler_share(lengths, [slice(0, 1), slice(1, 3)], 2) == pytest.approx(1 - (18 + 13) / (2 * 18))
    assert (
        straggler_share(lengths, [slice(0, 3), slice(3, 6)], 1) == straggler_share(np.zeros(6), [slice(0, 3)], 2) == 0
    )


def test_every_rank_knows_how_long_is_waited_in_a_step(tmp_path, monkeypatch):
    monkeypatch.setattr("data_shards.loading.steps._REMEMBERED", 2)
    config = small_config(make_shards(tmp_path, (70,), modality="text"), micro=1, window=1, modality="text")
    plans = [open_loader(config, rank, 2)._plan for rank in range(2)]
    shares = [[plan.straggler_share(step) for step in (0, 1, 2, 3, 0)] for plan in plans]
    assert shares[0] == shares[1] and shares[0][0] == shares[0][4]
    assert min(shares[0]) >= 0 and 0 < max(shares[0]) < 0.5


def test_lengths_come_from_the_sidecars(tmp_path):
    pattern = make_shards(tmp_path, (5, 0, 3), modality="text")
    index = load_index(pattern)
    expected = np.array([n for shard in range(len(index.paths)) for n in index.rows(shard)["length"].tolist()])
    assert len(expected) == 8 and 3 <= expected.min() < expected.max() <= 20
    for ids in ([0, 1, 2, 3, 4, 5, 6, 7], [7, 0, 5, 4], [6]):
        assert np.array_equal(Lengths(index)(np.array(ids)), expected[ids])
    again = pickle.loads(pickle.dumps(Lengths(index)))
    assert np.array_equal(again(np.arange(8)), expected), "as in a process that reads ahead"


def test_lengths_of_a_few_samples_touch_their_shards_alone(tmp_path, monkeypatch):
    index = load_index(make_shards(tmp_path, (2, 2, 2, 2), modality="text"))
    touched = []
    monkeypatch.setattr(type(index), "rows", lambda self, shard: touched.append(shard) or np.zeros(2, ROW))
    lengths = Lengths(index)
    monkeypatch.setattr("data_shards.order.length_bins._MAPPED", 2)
    for ids in ([7, 2, 3], [3], [0], [7]):
        lengths(np.array(ids))
    assert touched == [1, 3, 0, 3]
    remote = Lengths(replace(index, paths=("s3://b/0.tar",) * 4))
    assert len(remote(np.arange(8))) == 8 and {*touched[4:8]} == {0, 1, 2, 3}, "fetched together, then mapped"


def test_another_bin_or_crop_cannot_resume(tmp_path):
    config = small_config(make_shards(tmp_path, (70,), modality="text"), lanes=4, modality="text")
    state = open_loader(config, 0, 1).state_dict(3)
    other = replace(config, batch=replace(config.batch, equal="tokens"))
    with pytest.raises(ValueError, match=r"another equal; batch\.equal: set it to samples"):
        open_loader(other, 0, 1).load_state_dict(state)
    shorter = replace(config, text=replace(config.text, max_tokens=10))
    with pytest.raises(ValueError, match=r"text\.max_tokens: set it as the run began, 12"):
        open_loader(shorter, 0, 1).load_state_dict(state)
