"""Micro-batches within their budget."""

from itertools import islice

import pytest
import torch

from data_shards.loading.loader import open_loader
from data_shards.loading.modality_loader import ModalityLoader
from data_shards.making.writer import save_folder_index, write_shard
from data_shards.shards.index_file import FolderIndex, TokenizerEntry
from tests.data_shards.shard_tools import TEXT, counted_steps, make_shards, member, small_config
from tests.own import own


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


@pytest.mark.parametrize("modality", ["vision", "speech", "text"])
@pytest.mark.parametrize("labels", ["cls", "txt"])
def test_labelled_batches_are_of_the_samples_of_the_masked_ones(tmp_path, modality, labels):
    """In the same order, bins and micro-batches; a sample without its label is replaced, and counted."""
    samples = [
        (f"{i:03d}", {**member(i, modality), "cls": str(i % 3).encode(), "txt": f"text {i}".encode()})
        for i in range(24)
    ]
    config = own(small_config(str(tmp_path), modality=modality, max_bad_fraction=1.0))
    save(tmp_path, samples, modality)
    masked = [b for step in islice(ModalityLoader(config, 0, 1).steps(0), 3) for b in step]
    labelled = [b for step in islice(ModalityLoader(config, 0, 1, labels=labels).steps(0), 3) for b in step]
    for one, other in zip(masked, labelled, strict=True):
        ids = one.sample_ids.tolist()
        assert other.sample_ids.tolist() == ids and torch.equal(one.inputs, other.inputs)
        if labels == "cls":
            assert other.labels.tolist() == [i % 3 for i in ids] and other.transcripts is None
        else:
            assert other.transcripts == tuple(f"text {i}" for i in ids) and other.labels is None
    del samples[7][1][labels]
    save(tmp_path, samples, modality)
    loader = ModalityLoader(config, 0, 1, labels=labels)
    seen = [i for (step,) in counted_steps([loader], 3) for b in step for i in b.sample_ids.tolist()]
    assert 7 not in seen and loader.bad.replaced == 1 and loader.bad.kinds == {"member": 1}


def save(folder, samples, modality):
    """One shard of these samples."""
    entry = write_shard(folder / "train-000000.tar", samples)
    tokenizer = TokenizerEntry("0" * 64, TEXT.vocab_size) if modality == "text" else None
    save_folder_index(folder, FolderIndex((entry,), (), tokenizer))
