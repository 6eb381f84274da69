from data_shards.text.tokenizer import train_tokenizer
from data_shards.text.vocabulary import ids_of_types

OLD = train_tokenizer(["the cat sat on the mat, the cat"] * 9, 290)
NEW = train_tokenizer(["the catamaran sat by the harbour, the catamaran"] * 9, 300)


def test_shared_types_are_themselves_and_others_are_cut_into_the_longest_parts():
    found = ids_of_types(OLD, NEW)
    assert len(found) == NEW.vocab_size
    for name, ids in zip(NEW.types[4:-1], found[4:-1], strict=True):
        assert "".join(OLD.types[i] for i in ids) == name, "the parts spell the type"
        assert name not in OLD.vocab or ids == [OLD.vocab[name]]
    shared = [ids for name, ids in zip(NEW.types, found, strict=True) if name in OLD.vocab]
    assert len(shared) > 260 and any(len(ids) > 1 for ids in found)


def test_special_tokens_are_the_same_and_no_part_of_others():
    found = ids_of_types(OLD, NEW)
    assert found[:4] == [[0], [1], [2], [3]] and found[-1] == [OLD.vocab_size - 1]
    special = {0, 1, 2, 3, OLD.vocab_size - 1}
    assert not any(special & set(ids) for ids in found[4:-1])
