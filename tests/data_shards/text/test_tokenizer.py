import json

import pytest
from transformers import AutoTokenizer

from data_shards.text.tokenizer import load_tokenizer, train_tokenizer

PROSE = ["The quick brown fox jumps over the lazy dog.", "A dog's naïve café\n\twith 1,234 foxes 😀"]


TEXTS = [*PROSE, "<s><s><s> <mask>"] * 20


@pytest.fixture(scope="module")
def trained():
    return train_tokenizer(TEXTS, 300)


def test_special_ids_and_all_bytes(trained):
    assert trained.types[:4] == ("<s>", "<pad>", "</s>", "<unk>") and trained.types[-1] == "<mask>"
    assert trained.vocab_size == 300
    for text in (*PROSE, "\x00\x85 \u2028 漢字"):
        ids = trained.encode(text)
        assert trained.decode(ids) == text
        assert min(ids) > 3 and max(ids) < 299
    assert trained.decode([0, *trained.encode("dog"), 299, 2]) == "<s>dog<mask></s>"


def test_text_that_reads_like_a_special_token_is_text(trained):
    for text in ("<s>", "<mask>", "</s><pad>"):
        assert min(trained.encode(text)) > 3 and 299 not in trained.encode(text)


def test_transformers_gives_the_same_ids(trained, tmp_path):
    trained.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert type(theirs).__name__ == "RobertaTokenizer"
    assert (theirs.pad_token_id, theirs.mask_token_id, len(theirs)) == (1, 299, 300)
    for text in PROSE:
        assert theirs(text)["input_ids"] == [0, *trained.encode(text), 2]


def test_saved_loaded_and_trained_again_it_is_the_same(trained, tmp_path):
    trained.save(tmp_path)
    for path in (tmp_path, tmp_path / "vocab.json"):
        assert load_tokenizer(path).entry == trained.entry
    assert train_tokenizer(TEXTS, 300).entry == trained.entry
    assert train_tokenizer(TEXTS, 299).sha256 != trained.sha256


def test_gpt2_files_get_robertas_special_ids(trained, tmp_path):
    plain = [name for name in trained.types if name not in trained.types[:4] and name != "<mask>"]
    (tmp_path / "encoder.json").write_text(json.dumps({name: i for i, name in enumerate([*plain, "<|endoftext|>"])}))
    merges = "".join(f"{left} {right}\n" for left, right in trained.merges)
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\n" + merges)
    loaded = load_tokenizer(tmp_path)
    assert loaded.vocab_size == len(plain) + 1 + 4 + 3 + 1  # 50257 become 50265
    assert loaded.encode(TEXTS[0]) == trained.encode(TEXTS[0])
    assert loaded.vocab["<|endoftext|>"] == len(plain) + 4


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda vocab: vocab.update({"mask": vocab.pop("<mask>")}), "<mask> has id None"),
        (lambda vocab: vocab.update({"<s>": 1, "<pad>": 0}), "<s> has id 1"),
        (lambda vocab: vocab.update({"zzz": 9999}), "not 0, 1, 2"),
        (lambda vocab: vocab.update({"zzz": vocab.pop("Ġ")}), "1 of the 256 bytes"),
    ],
)
def test_other_vocabularies_are_refused_by_file(trained, tmp_path, change, told):
    trained.save(tmp_path)
    vocab = dict(trained.vocab)
    change(vocab)
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    with pytest.raises(ValueError, match=f"{tmp_path}/vocab.json, merges.txt: .*({told})"):
        load_tokenizer(tmp_path)


def test_a_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path} has neither vocab.json and merges.txt nor encoder.json"):
        load_tokenizer(tmp_path)
