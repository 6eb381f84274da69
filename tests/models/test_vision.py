import math

import torch
import torch.nn.functional as F

from models.data2vec import Data2Vec
from models.data2vec2 import make_objective
from models.vision import normalise, patchify, relative_position_index
from tests.models.common import tiny_config

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_normalise_applies_the_affine_map_then_clamps():
    images = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 2, 2)
    color = torch.eye(3, 4).repeat(2, 1, 1)
    color[1] = torch.tensor([[0, 0, 1, 0.5], [0, 0.5, 0, 0.1], [1, 0, 0, -0.2]])
    out = normalise(images, color, MEAN, STD, torch.float32)
    expected = torch.tensor([[0, 128 / 255, 1], [1, 64 / 255 + 0.1, 0]])
    expected = (expected - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(out, expected[..., None, None].expand(2, 3, 2, 2))
    assert normalise(images, color, MEAN, STD, torch.bfloat16).dtype == torch.bfloat16


def test_patches_times_weight_is_the_convolution():
    images, weight = torch.randn(2, 3, 12, 12), torch.randn(5, 3, 4, 4)
    expected = F.conv2d(images, weight, stride=4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(patchify(images, 4) @ weight.flatten(1).T, expected)


def test_relative_position_index_has_beit_layout():
    index = relative_position_index(14)
    assert index.shape == (197, 197) and int(index.max()) + 1 == 732  # 27 * 27 + 3, as the authors' code
    assert (int(index[0, 5]), int(index[5, 0]), int(index[0, 0])) == (729, 730, 731)
    assert int(index[1, 1]) == int(index[100, 100]) == 13 * 27 + 13
    assert int(index[1, 2]) == int(index[1, 1]) - 1 and int(index[1, 15]) == int(index[1, 1]) - 27


def test_initial_weights_are_cut_off_at_one_sigma_and_rescaled():
    student = Data2Vec(tiny_config(layers=3)).student.requires_grad_(False)
    for number, block in enumerate(student.encoder.blocks, start=1):
        assert 0.019 < float(block.attention.qkv.weight.abs().max()) <= 0.02
        for rescaled in (block.attention.proj.weight, block.feed_forward.fc2.weight):
            bound = 0.02 / math.sqrt(2 * number)
            assert 0.95 * bound < float(rescaled.abs().max()) <= bound
        assert float(block.attention.proj.bias.abs().max()) == float(block.attention.qkv.q_bias.abs().max()) == 0
        assert set(block.gamma1.tolist()) == {torch.tensor(1e-4).item()}
    # standard deviation of a normal cut off at one sigma: 0.5397 sigma
    assert abs(float(student.encoder.blocks[0].feed_forward.fc1.weight.std()) / 0.02 - 0.5397) < 0.02
    assert float(student.positions.table.abs().max()) == 0
    assert float(student.tokens.cls.std()) > 0.005 and float(student.tokens.mask.std()) > 0.005


def test_seed_decides_the_weights_and_leaves_the_global_generator():
    config = tiny_config()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = Data2Vec(config).student.head.weight
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(Data2Vec(config).student.head.weight, first)
    config.train.seed = 1
    assert not torch.equal(Data2Vec(config).student.head.weight, first)


def test_patches_and_positions_of_data2vec_2_are_of_one_order():
    """As published: else 94 % of the variance of the first targets is between positions (0.06 was measured)."""
    network = make_objective(tiny_config(objective="v2")).network("vision", "student").requires_grad_(False)
    weight = network.patch_embedding.weight.flatten(1)
    bound = math.sqrt(6 / sum(weight.shape))
    assert 0.95 * bound < float(weight.abs().max()) <= bound
    assert 0.6 < float(network.tokens.cls.std()) < 1.4
