"""What a micro-batch says of its shapes without asking its tensors."""

from dataclasses import replace
from multiprocessing.reduction import ForkingPickler

import torch

from data_shards.batch import LabelledBatch, MaskedBatch, TokenSpan

MASK = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 1, 1, 1, 0]]).bool()


def texts(lengths=(3, 2, 5)):
    ids = torch.arange(15, dtype=torch.int32).view(3, 5)
    return MaskedBatch(
        modality="text",
        inputs=ids,
        lengths=torch.tensor(lengths),
        sample_ids=torch.arange(3),
        corrupted=ids[:, None],
        masks=MASK[:, None],
        span=TokenSpan(1, 1),
    )


def test_counts_are_made_with_the_batch_and_travel_with_it():
    batch = texts()
    assert (batch.most_masked, batch.padded) == (3, True) and not texts((5, 5, 5)).padded
    moved = batch.to("meta")
    assert (moved.most_masked, moved.padded, moved.masks[:, 0].device.type) == (3, True, "meta")


def test_some_of_its_samples_have_counts_of_their_own():
    pair = texts().take(torch.tensor([0, 1]))
    assert pair.masks[:, 0].shape == pair.inputs.shape == pair.corrupted[:, 0].shape == (2, 3)
    assert (pair.most_masked, pair.padded) == (2, True)
    alone = pair.take(torch.tensor([1]))
    assert (alone.most_masked, alone.padded, alone.inputs.tolist()) == (1, False, [[5, 6]])


def test_small_tensors_go_to_another_process_within_the_message():
    """The images alone are a file of shared memory, because they lie there."""
    images = torch.randint(256, (3, 3, 200, 200), dtype=torch.uint8).share_memory_()
    batch = MaskedBatch(
        modality="vision",
        inputs=images,
        lengths=torch.full((3,), 5),
        sample_ids=torch.arange(3),
        color=torch.ones(3, 3, 4),
        masks=MASK[:, None],
    )
    message = bytes(ForkingPickler.dumps(batch))
    assert message.count(b"rebuild_tensor") == 1
    copy = ForkingPickler.loads(message)
    for name in ("inputs", "masks", "lengths", "sample_ids", "color"):
        assert torch.equal(getattr(copy, name), getattr(batch, name)), name
    assert (copy.most_masked, copy.padded, copy.scale) == (3, False, None)


def test_a_count_that_is_given_is_kept():
    assert replace(texts(), most_masked=4).most_masked == 4


def test_several_masks_of_a_sample_are_cut_and_counted_together():
    masks = torch.stack([MASK, MASK.roll(1, 1)], dim=1)  # [3, 2, 5]
    batch = replace(texts((2, 3, 5)), masks=masks, corrupted=None, most_masked=None)
    assert batch.counts == (2 * 6, 10, 15, 3) and batch.most_masked == 3
    pair = batch.take(torch.tensor([0, 1]))
    assert pair.masks.shape == (2, 2, 3) and torch.equal(pair.masks, masks[:2, :, :3])


def test_labels_and_transcripts_stay_with_their_samples():
    fields = {name: getattr(texts(), name) for name in ("modality", "inputs", "lengths", "sample_ids", "span")}
    batch = LabelledBatch(**fields, labels=torch.tensor([4, 5, 6]), transcripts=("a", "b", "c"))
    assert batch.counts == (3, 10, 15, 3)
    taken = batch.take(torch.tensor([2, 0]))
    assert taken.labels.tolist() == [6, 4] and taken.transcripts == ("c", "a") and taken.inputs.shape == (2, 5)
    copy = ForkingPickler.loads(bytes(ForkingPickler.dumps(batch)))
    assert copy.transcripts == batch.transcripts and torch.equal(copy.labels, batch.labels)
