"""The nearest known name for a wrong one. Standard library only: it also serves before anything is installed."""

from __future__ import annotations

from difflib import get_close_matches


def nearest(name: str, known: list[str]) -> str | None:
    """Return the known name that was most likely meant; None if nothing is near.

    That is one with the same last part (`lr` for `optimizer.lr`), or the nearest spelling.
    """
    by_leaf = {key.rpartition(".")[2]: key for key in reversed(known)}
    if name in by_leaf:
        return by_leaf[name]
    if close := get_close_matches(name, known, n=1, cutoff=0.6):
        return close[0]
    close = get_close_matches(name.rpartition(".")[2], list(by_leaf), n=1, cutoff=0.6)
    return by_leaf[close[0]] if close else None


def unknown_key(name: str, known: list[str]) -> ValueError:
    """Return the error for a key that does not exist."""
    match = nearest(name, known)
    remedy = f"did you mean '{match}'?" if match else "--help lists the keys"
    return ValueError(f"unknown key '{name}': {remedy}")


def unknown_choice(group: str, value: str, choices: list[str]) -> ValueError:
    """Return the error for a choice that a group does not have."""
    return ValueError(f"unknown {group} '{value}': one of {', '.join(choices)}")
