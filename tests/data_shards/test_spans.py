"""Positions that are chosen, and spans that begin there."""

import numpy as np
import pytest

from data_shards.spans import choose_positions, cover_spans


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
