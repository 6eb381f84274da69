"""The tokenizer beside shards: whose it is, where it lies, and which one a run refuses."""

from dataclasses import replace

import pytest

from data_shards.loading.loader import open_loader
from tests.data_shards.shard_tools import TEXT, make_shards, small_config


def test_a_vocabulary_of_another_size_is_refused_with_the_remedy(tmp_path):
    config = small_config(make_shards(tmp_path, (8,), modality="text"), modality="text")
    other = replace(config, text=replace(TEXT, vocab_size=50265))
    with pytest.raises(
        ValueError, match=r"text\.vocab_size=50265, .*tokenizer\) has 300 types: set text\.vocab_size=300"
    ):
        open_loader(other, 0, 1)
