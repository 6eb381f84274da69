"""The tokens of a text as a student sees them: masked, replaced by others, or as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

_BROKEN = "\ufffd"
"""End of a text whose last character is in several tokens, and not complete."""

State = Literal["seen", "masked", "replaced"]
"""seen: as it is; masked: the student predicts it; replaced: the student sees another one, and has no target."""
Decode = Callable[[Sequence[int]], str]


class Token(NamedTuple):
    """A token; several tokens, if no fewer of them make a character."""

    text: str
    state: State
    instead: str = ""
    """The text that the student sees, if it is replaced."""


def state_of(true: int, seen: int, masked: bool) -> State:
    """Return the state of one token."""
    return "masked" if masked else "seen" if true == seen else "replaced"


def marked_tokens(true: list[int], seen: list[int], masked: list[bool], decode: Decode) -> list[Token]:
    """Return the tokens of one text. true, seen: ids of the teacher's and of the student's text."""
    states = [state_of(*token) for token in zip(true, seen, masked, strict=True)]
    found, start = list[Token](), 0
    for end in range(1, len(true) + 1):
        text = decode(true[start:end])
        if text.endswith(_BROKEN) and end < len(true) and states[end] == states[start]:
            continue  # the character goes on
        instead = decode(seen[start:end]) if states[start] == "replaced" else ""
        found.append(Token(_on_a_line(text), states[start], _on_a_line(instead)))
        start = end
    return found


def _on_a_line(text: str) -> str:
    """Return a text with a sign for each line break, and no control characters."""
    return "".join("↵" if sign == "\n" else sign if sign.isprintable() else "·" for sign in text)
