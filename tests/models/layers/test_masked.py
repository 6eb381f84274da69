import torch

from models.layers.masked import masked_of, masked_rows, of_each_mask, real_tokens, without
from tests.models.common import MODALITIES, random_batch, tiny_config


def test_hidden_and_visible_places_are_those_of_the_masks():
    for modality in MODALITIES:
        batch = random_batch(tiny_config(modality=modality, objective="v2"))
        masked = masked_of(batch)
        assert len(masked.mask) == 3 * len(batch)
        for n in range(len(masked.mask)):
            sample, own = n // 3, batch.masks.flatten(0, 1)[n]
            length = int(batch.lengths[sample])
            hidden = masked.hidden[n][masked.weight[n] > 0]
            seen = int(length - own.sum())
            assert hidden.tolist() == own.nonzero().flatten().tolist()
            assert masked.visible[n, :seen].tolist() == (~own[:length]).nonzero().flatten().tolist()
            assert masked.lengths is None or int(masked.lengths[n]) == seen
        assert (masked.padding is None) == (modality == "vision") == (masked.lengths is None)


def test_rows_of_a_mask_and_their_weight():
    rows, weight = masked_rows(torch.tensor([[False, True, True, False], [True, False, False, False]]), 2)
    assert rows[0].tolist() == [1, 2] and rows[1, 0] == 0
    assert weight.tolist() == [[1, 1], [1, 0]]


def test_tokens_of_each_mask_are_those_of_its_sample():
    x = torch.arange(12.0).view(2, 3, 2)
    got = of_each_mask(x, torch.tensor([[0, 2], [1, 1], [2, 0], [0, 1]]))
    assert torch.equal(got, torch.stack([x[0, [0, 2]], x[0, [1, 1]], x[1, [2, 0]], x[1, [0, 1]]]))


def test_padding_is_behind_the_end():
    real = real_tokens(torch.tensor([1, 3]), 3)
    assert real.tolist() == [[True, False, False], [True, True, True]]
    assert without(torch.ones(2, 3, 1), ~real[..., None]).flatten().tolist() == [1, 0, 0, 1, 1, 1]
