from itertools import islice

import numpy as np
import pytest
import torch

from data_shards.batch import BOS, EOS, PAD
from data_shards.loading.loader import open_loader
from data_shards.shards.bad_sample import BadSample
from data_shards.text.samples import Texts, window
from data_shards.text.tokens import tokens_npy
from tests.data_shards.shard_tools import TEXT, make_shards, small_config, text_ids
from tests.own import own

TEXTS = Texts(own(small_config("", modality="text")))


def load(ids, limit=12, place=0.5):
    return TEXTS.load({"npy": tokens_npy(ids, TEXT.vocab_size)}, np.array([place]), limit)


def test_a_long_text_is_cut_to_a_window_between_its_ends():
    tokens = np.array([BOS, *range(10, 20), EOS], np.uint16)
    assert window(tokens, 12, 0.7) is tokens
    assert window(tokens, 6, 0.0).tolist() == [BOS, 10, 11, 12, 13, EOS]
    assert window(tokens, 6, 1 - 2**-53).tolist() == [BOS, 16, 17, 18, 19, EOS]
    firsts = {int(window(tokens, 6, place)[1]) for place in np.arange(0, 1, 0.01)}
    assert firsts == set(range(10, 17))


def test_a_batch_is_padded_to_its_longest_text():
    loaded = [load(text_ids(i, n)) for i, n in enumerate((3, 20, 7))]
    batch = TEXTS.masked(0, np.array([4, 5, 6]), loaded, None)
    assert batch.lengths.tolist() == [3, 12, 7] and batch.inputs.shape == batch.masks[:, 0].shape == (3, 12)
    assert batch.inputs.dtype == batch.corrupted[:, 0].dtype == torch.int32
    assert (batch.inputs[0, 3:] == PAD).all() and (batch.corrupted[:, 0][2, 7:] == PAD).all()
    assert batch.inputs[1, 0] == BOS and batch.inputs[1, 11] == EOS, "the teacher sees the whole text"
    assert (batch.corrupted[:, 0][batch.masks[:, 0]] == TEXT.vocab_size - 1).all()
    assert (batch.inputs[batch.masks[:, 0]] != TEXT.vocab_size - 1).all()
    assert torch.equal(batch.corrupted[:, 0][~batch.masks[:, 0]], batch.inputs[~batch.masks[:, 0]])


def test_an_evaluation_sees_the_beginning_whole():
    ids = text_ids(0, 20)
    batch = TEXTS.unmasked(np.arange(1), [TEXTS.load_whole({"npy": tokens_npy(ids, 300)})])
    assert batch.inputs.tolist() == [[*ids[:11], EOS]]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"npy": tokens_npy([BOS, EOS], 300)}, "an empty text: 2 tokens, <s> and </s> included"),
        ({"npy": tokens_npy([BOS, EOS, EOS], 300)}, "an empty text"),
        ({"npy": tokens_npy([BOS, 300, EOS], 400)}, r"token 300, and text\.vocab_size=300"),
        ({"npy": b"\xff\xfe"}, "not decodable"),
        ({"txt": b"words"}, r"no token ids \(\.npy\) among its members: txt"),
    ],
)
def test_what_cannot_be_used(members, reason):
    with pytest.raises(BadSample, match=reason):
        TEXTS.load(members, np.array([0.5]), 12)


def test_windows_of_long_texts_come_from_everywhere_over_the_epochs(tmp_path):
    config = small_config(make_shards(tmp_path, (8,), modality="text"), modality="text")
    seen = {}
    for [*batches] in islice(open_loader(config, 0, 1).steps(0), 30):
        for batch in batches:
            for sample, ids in zip(batch.sample_ids.tolist(), batch.inputs, strict=True):
                seen.setdefault(sample, set()).update(ids.tolist())
    for sample in range(8):
        assert seen[sample] >= set(text_ids(sample)), "every token of every text"
