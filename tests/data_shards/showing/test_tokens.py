"""Tokens with their masks, in the tokenizer's pieces."""

from data_shards.showing.tokens import marked_tokens
from data_shards.text.tokenizer import train_tokenizer

TOKENIZER = train_tokenizer(["the cat sat on the mat"] * 4, vocab_size=300)
MASK = TOKENIZER.vocab_size - 1


def test_each_token_is_seen_masked_or_replaced_by_another():
    the, cat, sat, mat = (TOKENIZER.encode(word)[0] for word in ("the", " cat", " sat", " mat"))
    true, seen = [the, cat, sat], [the, MASK, mat]
    marked = marked_tokens(true, seen, [False, True, False], TOKENIZER.decode)
    assert marked == [("the", "seen", ""), (" cat", "masked", ""), (" sat", "replaced", " mat")]


def test_bytes_of_one_character_stand_together_unless_a_mask_parts_them():
    ids = TOKENIZER.encode("é!").tolist()  # the type of each byte: two, and one
    assert len(ids) == 3
    assert [token.text for token in marked_tokens(ids, ids, [False] * 3, TOKENIZER.decode)] == ["é", "!"]
    parted = marked_tokens(ids, [MASK, *ids[1:]], [True, False, False], TOKENIZER.decode)
    assert [token.state for token in parted] == ["masked", "seen"]


def test_line_breaks_and_control_characters_have_signs():
    ids = TOKENIZER.encode("a\n\x07").tolist()
    assert "".join(token.text for token in marked_tokens(ids, ids, [False] * len(ids), TOKENIZER.decode)) == "a↵·"
