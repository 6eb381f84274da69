"""Divisors, and numbers as an error lists them."""

from configs.checks.divisors import divisors, listed


def test_every_divisor_once_and_ascending() -> None:
    assert divisors(12) == [1, 2, 3, 4, 6, 12]
    for number in range(1, 200):
        assert divisors(number) == [n for n in range(1, number + 1) if number % n == 0]


def test_more_than_forty_numbers_are_cut_with_a_sign_of_it() -> None:
    assert listed([1, 2, 4]) == "1, 2, 4"
    assert listed(list(range(40))).endswith("38, 39") and listed(list(range(41))).endswith("38, 39, ...")
