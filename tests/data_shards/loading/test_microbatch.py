"""Micro-batches within their budget."""

from itertools import islice

import pytest

from data_shards.loading.loader import open_loader
from tests.data_shards.shard_tools import make_shards, small_config


@pytest.mark.parametrize("modality", ["speech", "text"])
def test_micro_batches_keep_to_their_budget_on_every_rank(tmp_path, modality):
    pattern = make_shards(tmp_path, (70,), modality=modality)
    config = small_config(pattern, batch=16, micro=8, micro_tokens=30, modality=modality)
    ranks = [list(islice(open_loader(config, rank, 2).steps(0), 4)) for rank in range(2)]
    sizes = {len(step) for step in ranks[0]}
    assert len(sizes) > 1 and [len(step) for step in ranks[0]] == [len(step) for step in ranks[1]]
    batches = [batch for rank in ranks for step in rank for batch in step]
    assert all(batch.masks.numel() <= 30 and len(batch) <= 8 for batch in batches)
    assert max(map(len, batches)) > 2, "short ones come in greater numbers"
