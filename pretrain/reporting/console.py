"""Lines about the steps of a run for people: how long it will take."""

from __future__ import annotations

FIRST_STEPS = 20
"""Steps after which the duration of a run is known."""
_WARM = 5
"""Steps at the start that are slower than the rest and do not count."""


def duration(seconds: float) -> str:
    """Return a duration in the unit that fits it."""
    for unit, length, most in (("s", 1, 90), ("min", 60, 90), ("hours", 3600, 48)):
        if seconds < most * length:
            return f"{seconds / length:.{0 if seconds >= 10 * length else 1}f} {unit}"
    return f"{seconds / 86400:.1f} days"


class FirstSteps:
    """The durations of the first steps that this start of a run takes."""

    def __init__(self) -> None:
        self._seconds: list[float] = []

    def expected(self, seconds: float, left: int) -> str | None:
        """Count a step; return a line with the time that the `left` steps to come will take, once, when it is known."""
        if len(self._seconds) < FIRST_STEPS:
            self._seconds.append(seconds)
            if len(self._seconds) == FIRST_STEPS and left:
                each = sum(self._seconds[_WARM:]) / len(self._seconds[_WARM:])
                return f"a step takes {each:.3g} s: about {duration(each * left)} for {left:,} more steps"
        return None
