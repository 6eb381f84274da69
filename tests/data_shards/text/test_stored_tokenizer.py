"""The tokenizer beside shards: whose it is, where it lies, and which one a run refuses."""

from dataclasses import replace

import pytest

from configs.schema_training import DataConfig
from data_shards.kinds import kind_of
from data_shards.loading.loader import open_loader
from data_shards.making.writer import save_folder_index
from data_shards.shards.index import load_index
from data_shards.shards.index_file import read_folder_index
from data_shards.text.stored_tokenizer import check_tokenizer, tokenizer_folder, tokenizer_of
from data_shards.text.tokenizer import load_tokenizer, train_tokenizer
from tests.data_shards.http_store import serve
from tests.data_shards.shard_tools import TEXT, make_shards, small_config
from tests.own import own


def test_a_vocabulary_of_another_size_is_refused_with_the_remedy(tmp_path):
    config = small_config(make_shards(tmp_path, (8,), modality="text"), modality="text")
    other = replace(config, text=replace(TEXT, vocab_size=50265))
    with pytest.raises(
        ValueError, match=r"text\.vocab_size=50265, .*tokenizer\) has 300 types: set text\.vocab_size=300"
    ):
        open_loader(other, 0, 1)


def text_shards(folder, words=("some text", "and some more")):
    """Shards of made-up ids whose index.json names a tokenizer that lies beside them."""
    make_shards(folder, (8,), modality="text")
    tokenizer = train_tokenizer(words, TEXT.vocab_size)
    tokenizer.save(folder / "tokenizer")
    save_folder_index(folder, replace(read_folder_index(folder), tokenizer=tokenizer.entry))
    return tokenizer


def test_it_lies_beside_local_shards(tmp_path):
    tokenizer = text_shards(tmp_path / "a")
    index = load_index(str(tmp_path / "a"))
    assert tokenizer_folder(index) == tmp_path / "a/tokenizer"
    assert tokenizer_of(DataConfig(shards=f"{tmp_path}/a/train-*.tar")) == (tokenizer.entry, tmp_path / "a/tokenizer")


def test_what_is_no_text_or_not_there_has_none(tmp_path):
    assert tokenizer_of(DataConfig(shards="/nowhere/train-*.tar")) is None
    assert tokenizer_of(DataConfig(shards=make_shards(tmp_path, (4,)))) is None


def test_of_a_store_it_is_copied_once_and_a_damaged_copy_is_replaced(tmp_path):
    tokenizer = text_shards(tmp_path / "a")
    with serve(tmp_path / "a") as store:
        data = DataConfig(shards=store.url, cache_dir=str(tmp_path / "cache"))
        _, copy = tokenizer_of(data)
        assert load_tokenizer(copy).entry == tokenizer.entry
        fetched = store.bytes_of("vocab.json")
        assert tokenizer_of(data) == (tokenizer.entry, copy) and store.bytes_of("vocab.json") == fetched
        (copy / "vocab.json").write_text("{}")
        assert load_tokenizer(tokenizer_of(data)[1]).entry == tokenizer.entry
        assert store.bytes_of("vocab.json") == 2 * fetched
        (tmp_path / "a/tokenizer/merges.txt").unlink()
        (copy / "merges.txt").unlink()
        with pytest.raises(ValueError, match=f"the tokenizer beside the shards in {store.url} cannot be read"):
            tokenizer_of(data)


def test_a_probe_of_another_tokenizer_is_refused(tmp_path):
    types = text_shards(tmp_path / "a").vocab_size
    text_shards(tmp_path / "b", ("other words", "for another vocabulary"))
    text = replace(TEXT, vocab_size=types)
    config = own(replace(small_config(str(tmp_path / "a"), modality="text"), text=text))
    check_tokenizer(config, load_index(str(tmp_path / "a")))
    with pytest.raises(ValueError, match=rf"{tmp_path}/b has another tokenizer than data\.shards \({tmp_path}/a/"):
        check_tokenizer(config, load_index(str(tmp_path / "b")))
    kind_of("vision").check_index(own(small_config("")), load_index(str(tmp_path / "b")))  # a run on images has none
