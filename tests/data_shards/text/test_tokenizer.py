import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from data_shards.text.tokenizer import load_tokenizer, pieces, train_tokenizer

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


LETTERS = ["dog", "a", "it's", "1,234", "漢字", "，", "é", "e\u0301", "😀", "_", "--", "'s"]
PARTS = [*LETTERS, " ", "  ", "\n", "\r\n", "\t", "\u3000", "\x1c"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PARTS), min_size=20, max_size=60).map("".join))
def test_pieces_of_a_text_give_the_ids_of_the_whole(trained, text):
    """Wherever a piece was not cut because of its length alone."""
    cut = list(pieces(text, 20))
    assert "".join(cut) == text and max(map(len, cut)) <= 20
    if all(len(piece) < 20 for piece in cut[:-1]):
        assert [i for piece in cut for i in trained.encode(piece)] == list(trained.encode(text))


def test_long_texts_are_encoded_in_pieces(trained):
    text = " ".join(["dog 漢字, café"] * 11_000)
    assert len(text) > 2 * 2**16
    assert list(trained.encode(text)) == trained._backend.encode(text, add_special_tokens=False).ids
    assert trained.decode(trained.encode("x" * 200_000)) == "x" * 200_000


def test_encoding_a_long_text_takes_little_memory():
    """As many bytes as the ids themselves; with the whole text at a time, 130 bytes a character."""
    code = """
import resource
from data_shards.text.tokenizer import train_tokenizer
tokenizer, text = train_tokenizer(["a dog"], 300), "dog " * 2**20
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tokenizer.encode(text)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100 * 1024


@pytest.mark.timeout(60)
@pytest.mark.parametrize("run", ["letters", "one letter", "spaces", "lines"])
def test_a_run_of_a_million_characters_does_not_hold_up_training(run):
    letters = np.random.default_rng(0).choice(list("abcdefgh"), 1_000_000)
    text = {"letters": "".join(letters), "one letter": "z" * 10**6, "spaces": " " * 10**6, "lines": "\n" * 10**6}[run]
    tokenizer = train_tokenizer([*TEXTS, f"dog {text} dog"], 2000)
    assert "dog" in tokenizer.types and max(map(len, tokenizer.types)) <= 256


def test_words_of_ordinary_length_are_trained_whole():
    """Beside a long run, too: its text is cut, the others' words are not."""
    long = "ab漢字 " * 50 + "'s  \n\n x" * 40 + "y" * 300 + " it's"
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=285, initial_alphabet=alphabet, show_progress=False)
    word = long.index(" xy")  # of 302 characters
    backend.train_from_iterator([long[:word], long[word : word + 256], long[word + 256 : word + 302], " it's"], trainer)
    theirs = json.loads(backend.to_str())["model"]["merges"]
    assert train_tokenizer([long], 290).merges == [tuple(pair) for pair in theirs]
