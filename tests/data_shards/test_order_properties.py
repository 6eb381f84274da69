"""Across order. What holds of any shards, empty ones too, lanes, chunks, windows, weights and steps."""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data_shards.order.blend import BlendedOrder, order_of
from data_shards.order.cursor import Cursor
from data_shards.order.plain import Blend, EpochOrder, OrderConfig

some = settings(deadline=None, derandomize=True, max_examples=120, database=None)


class Case(NamedTuple):
    counts: np.ndarray
    config: OrderConfig
    per_lane: int

    @property
    def lanes(self) -> np.ndarray:
        return np.arange(self.config.lanes)

    @property
    def cursor(self) -> Cursor:
        order = order_of(self.counts, self.config)
        return Cursor(self.config, self.per_lane, order.lane_length, "digest")

    def step(self, number: int, world: int = 1) -> list[tuple[int, int]]:
        """Samples of a step with their epochs, in the order of the ranks: each rank draws with an order of its own."""
        epoch, position = self.cursor.locate(number)
        lanes = np.split(self.lanes, world)
        draws = [
            order_of(self.counts, self.config).draw(epoch, own, position, position + self.per_lane) for own in lanes
        ]
        return [
            pair
            for draw in draws
            for pair in zip(draw.samples.ravel().tolist(), draw.epochs.ravel().tolist(), strict=True)
        ]


shards = st.lists(st.integers(0, 40), min_size=1, max_size=6)


@st.composite
def cases(draw, blended: bool | None = None, epoch: str | None = None) -> Case:
    """An order with at least one step in an epoch."""
    items = draw(st.lists(shards, min_size=1, max_size=3))
    counts = np.array([count for item in items for count in item])
    blend = None
    if draw(st.booleans()) if blended is None else blended:
        weights = tuple(draw(st.integers(1, 5)) for _ in items)
        mode = epoch or draw(st.sampled_from(["mixture", "source"]))
        blend = Blend(weights, tuple(map(len, items)), mode)
        assume(all(sum(item) for item in items))
    lanes = draw(st.sampled_from([1, 2, 3, 4, 6, 8]))
    config = OrderConfig(
        draw(st.integers(0, 2**31 - 1)), lanes, draw(st.integers(1, 50)), draw(st.integers(1, 20)), blend
    )
    case = Case(counts, config, draw(st.integers(1, 4)))
    if blend:
        assume(all(sum(item) >= lanes for item in items))
    assume(case.cursor.steps_per_epoch > 0)
    return case


@some
@given(cases(blended=False), st.integers(0, 5))
def test_every_sample_at_most_once_and_fewer_than_a_batch_and_the_lanes_left_out(case, epoch):
    steps = case.cursor.steps_per_epoch
    drawn = [pair for step in range(steps) for pair in case.step(epoch * steps + step)]
    samples = [sample for sample, _ in drawn]
    assert len(set(samples)) == len(samples) and {own for _, own in drawn} == {epoch}
    assert min(samples) >= 0 and max(samples) < case.counts.sum()
    assert case.counts.sum() - len(samples) < case.config.lanes * case.per_lane + case.config.lanes


@some
@given(cases(blended=True, epoch="mixture"), st.integers(0, 5))
def test_every_sample_at_most_once_in_an_epoch_of_a_mixture(case, epoch):
    order = order_of(case.counts, case.config)
    draw = order.draw(epoch, case.lanes, 0, order.lane_length)
    assert len(np.unique(draw.samples)) == draw.samples.size and (draw.epochs == epoch).all()
    totals = np.array([part.sum() for part in np.split(case.counts, np.cumsum(case.config.blend.items)[:-1])])
    weights, lanes = np.array(case.config.blend.weights), case.config.lanes
    left = totals - draw.samples.size // sum(weights) * weights
    assert (left // lanes < weights).any(), "some item has no whole block left"


@some
@given(cases(blended=True), st.integers(0, 3))
def test_quotas_are_exact_in_every_block_of_every_lane(case, epoch):
    order, blend = order_of(case.counts, case.config), case.config.blend
    size = sum(blend.weights)
    samples = order.draw(epoch, case.lanes, 0, order.lane_length).samples
    starts = np.cumsum([0] + [part.sum() for part in np.split(case.counts, np.cumsum(blend.items)[:-1])])
    of_item = np.searchsorted(starts, samples, "right") - 1
    for number, weight in enumerate(blend.weights):
        assert ((of_item.reshape(len(case.lanes), -1, size) == number).sum(2) == weight).all()


@some
@given(cases(blended=True, epoch="source"), st.integers(0, 300))
def test_each_source_goes_through_permutations_of_its_own(case, begin):
    """Its samples in the lanes, in turn, are those of an order of its own; whole epochs have each sample once."""
    order = BlendedOrder(case.counts, case.config)
    end = begin + 3 * sum(case.config.blend.weights)
    samples, epochs = order.draw(9, case.lanes, 0, end)
    for number, (start, stop) in enumerate(zip(order.starts, order.starts[1:], strict=False)):
        counts, length = order.items[number].counts, order.items[number].lane_length
        for lane in case.lanes.tolist():
            mine = (samples[lane] >= start) & (samples[lane] < stop)
            own = np.arange(mine.sum())
            assert np.array_equal(epochs[lane, mine], own // length)
            expected = [
                EpochOrder(counts, case.config, epoch, number).ids(np.array([lane]), 0, length)[0]
                for epoch in range(own[-1] // length + 1 if len(own) else 0)
            ]
            assert np.array_equal(samples[lane, mine] - start, np.concatenate([[], *expected])[: len(own)])
    later = order.draw(0, case.lanes, begin, end)
    assert np.array_equal(later.samples, samples[:, begin:]) and np.array_equal(later.epochs, epochs[:, begin:])


@some
@given(cases(), st.integers(0, 100))
def test_ranks_share_a_step_in_any_cut(case, number):
    whole = case.step(number)
    assert len(whole) == case.config.lanes * case.per_lane
    for world in (world for world in (2, 3, 4, 8) if case.config.lanes % world == 0):
        assert case.step(number, world) == whole


@some
@given(cases(), st.integers(0, 10**9))
def test_a_state_resumes_where_it_was(case, number):
    cursor = case.cursor
    state = json.loads(json.dumps(cursor.state_dict(number)))
    assert case.cursor.load_state_dict(state) == number
    epoch, position = cursor.locate(number)
    assert (state["epoch"], state["lane_pos"]) == (epoch, position) and epoch == number // cursor.steps_per_epoch
    expected = number if case.config.endless else number % cursor.steps_per_epoch
    assert position == expected * case.per_lane


@some
@given(cases(), st.data())
def test_what_replaces_a_sample_is_of_its_item_and_epoch(case, data):
    order = order_of(case.counts, case.config)
    lane, position = data.draw(st.sampled_from(case.lanes.tolist())), data.draw(st.integers(0, order.lane_length - 1))
    draw = order.draw(2, case.lanes[lane : lane + 1], position, position + 1)
    sample, epoch = int(draw.samples[0, 0]), int(draw.epochs[0, 0])
    instead = list(order.replacements(epoch, lane, position))
    edges = order.starts if case.config.blend else np.array([0, case.counts.sum()])
    item = np.searchsorted(edges, sample, "right") - 1
    assert sample not in instead and len(set(instead)) == len(instead)
    assert len(instead) == int(edges[item + 1] - edges[item]) // case.config.lanes - 1
    assert all(edges[item] <= other < edges[item + 1] for other in instead)
