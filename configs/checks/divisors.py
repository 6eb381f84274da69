"""Divisors, and numbers as an error message lists them."""

from __future__ import annotations


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    small = [n for n in range(1, int(number**0.5) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def listed(numbers: list[int]) -> str:
    """At most 40 of the numbers, as text."""
    text = ", ".join(str(number) for number in numbers[:40])
    return text + (", ..." if len(numbers) > 40 else "")
