"""The types of one tokenizer in terms of another one's, to go on from weights of another vocabulary."""

from __future__ import annotations

from data_shards.text.tokenizer import SPECIALS, Tokenizer


def ids_of_types(old: Tokenizer, new: Tokenizer) -> list[list[int]]:
    """Return for each type of `new` the ids of `old` that it begins from: its own, or those of its parts.

    Special tokens have fixed ids, and <mask> is the last. A type that `old` does not have is cut into the longest types
    of `old` from left to right; single bytes are types of every tokenizer.
    """
    last = new.vocab_size - 1
    special = set(old.types[: len(SPECIALS)]) | {old.types[-1]}
    parts = {name: i for name, i in old.vocab.items() if name not in special}
    longest = max(map(len, parts))
    found = [[i] if i < len(SPECIALS) else _cut(name, parts, longest) for i, name in enumerate(new.types)]
    return [*found[:last], [old.vocab_size - 1]]


def _cut(name: str, parts: dict[str, int], longest: int) -> list[int]:
    ids = []
    while name:
        length = next(n for n in range(min(longest, len(name)), 0, -1) if name[:n] in parts)
        ids.append(parts[name[:length]])
        name = name[length:]
    return ids
