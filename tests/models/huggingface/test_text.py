"""Text: configuration, tokenizer and token types."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.schema_modalities import TextConfig
from data_shards.text.tokenizer import Tokenizer, train_tokenizer
from models.data2vec import Data2Vec
from models.huggingface import load_pretrained, save_pretrained
from tests.models.test_huggingface import exported, tiny, transformers
from tests.own import own


def test_configuration_of_text(tmp_path):
    exported(tmp_path, tiny("text"))
    written = transformers.AutoConfig.from_pretrained(tmp_path)
    assert (written.vocab_size, written.max_position_embeddings, written.type_vocab_size) == (50, 26, 1)
    assert (written.bos_token_id, written.pad_token_id, written.eos_token_id, written.mask_token_id) == (0, 1, 2, 49)
    assert written.layer_norm_eps == 1e-5


@pytest.fixture
def tokenizer(tmp_path) -> Tokenizer:
    trained = train_tokenizer(["the quick brown fox jumps over the lazy dog, und läuft"] * 4, 290)
    trained.save(tmp_path / "tokenizer")
    return trained


def test_tokenizer_gives_our_ids(tmp_path, tokenizer):
    config, folder = tiny("text"), tmp_path / "out"
    config.text = TextConfig(vocab_size=tokenizer.vocab_size, max_tokens=24)
    save_pretrained(folder, Data2Vec(config).student.state_dict(), own(config), tmp_path / "tokenizer")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in ("the quick brown fox läuft", " two  spaces\nand a line", "😀 unseen", ""):
        assert theirs(text)["input_ids"] == [0, *tokenizer.encode(text), 2]
    assert theirs.mask_token_id == tokenizer.vocab_size - 1 and theirs.pad_token_id == 1
    assert len(theirs("fox " * 100, truncation=True)["input_ids"]) == 24
    assert not [path for path in (tmp_path / "tokenizer").iterdir() if "model_max_length" in path.read_text()]


def test_missing_tokenizer(tmp_path):
    config = tiny("text")
    with pytest.raises(ValueError, match="none has no vocab.json: put there the files of `tokenizer`"):
        save_pretrained(tmp_path, Data2Vec(config).student.state_dict(), own(config), tmp_path / "none")


def test_token_types_of_others_are_kept(tmp_path):
    """A folder whose one token type is not zero: it is added to every token's position."""
    config = tiny("text")
    exported(tmp_path, config)
    weights = load_file(tmp_path / "model.safetensors")
    types = weights["embeddings.token_type_embeddings.weight"]
    assert not types.any() and types.shape == (1, 32)
    before = load_pretrained(tmp_path, own(config))["positions.weight"]
    save_file(weights | {"embeddings.token_type_embeddings.weight": types + 3}, tmp_path / "model.safetensors")
    after = load_pretrained(tmp_path, own(config))["positions.weight"]
    assert torch.equal(after[2:], before[2:] + 3) and torch.equal(after[:2], before[:2])
    for odd in (torch.zeros(0, 32), torch.zeros(1, 31), torch.zeros(()), torch.zeros(1, 32, dtype=torch.int8)):
        save_file(weights | {"embeddings.token_type_embeddings.weight": odd}, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=f"{tmp_path}: embeddings.token_type_embeddings.weight and .* do not fit"):
            load_pretrained(tmp_path, own(config))
