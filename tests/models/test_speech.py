import math

import pytest
import torch
import torch.nn.functional as F

from configs.signals import CONV_KERNELS, CONV_STRIDES, samples_of
from data_shards.batch import RECEPTIVE_FIELD, frames
from models.data2vec import Data2Vec
from models.speech import FeatureEncoder, Positions, normalise
from tests.models.common import tiny_config


@pytest.fixture
def encoder() -> FeatureEncoder:
    torch.manual_seed(0)
    return FeatureEncoder(8, checkpointing=False)


@pytest.mark.parametrize(("samples", "expected"), [(16000, 49), (32000, 99), (250000, 781), (320000, 999)])
def test_published_numbers_of_frames(encoder, samples: int, expected: int):
    assert encoder(torch.zeros(1, samples)).shape == (1, expected, 8) and frames(samples) == expected


def test_feature_encoder_is_a_stack_of_convolutions(encoder):
    waveform = torch.randn(2, 1234, requires_grad=True)
    x = waveform[:, None]
    for layer, stride in zip(encoder.layers, CONV_STRIDES, strict=True):
        x = F.conv1d(x, layer.conv.weight, stride=stride).transpose(1, 2)
        x = F.gelu(F.layer_norm(x, (8,), layer.norm.weight, layer.norm.bias, 1e-5)).transpose(1, 2)
    ours = encoder(waveform)
    torch.testing.assert_close(ours, x.transpose(1, 2), rtol=1e-4, atol=1e-5)
    inputs, weight = [waveform, *encoder.parameters()], torch.randn_like(ours)
    gradients = [torch.autograd.grad((y * weight).sum(), inputs) for y in (ours, x.transpose(1, 2))]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_receptive_field_and_stride(encoder):
    """The gradient of frame 2 reaches samples 640 to 1039 and no others."""
    waveform = torch.randn(1, samples_of(5), requires_grad=True)
    encoder(waveform)[0, 2].sum().backward()
    reached = waveform.grad[0].nonzero().flatten()
    assert (int(reached.min()), int(reached.max())) == (640, 640 + RECEPTIVE_FIELD - 1)


def test_recomputation_changes_no_gradient(encoder):
    waveform, gradients = torch.randn(2, 2000), []
    for checkpointing in (False, True):
        encoder.checkpointing = checkpointing
        gradients.append(torch.autograd.grad(encoder(waveform).square().sum(), list(encoder.parameters())))
    assert all(torch.equal(kept, recomputed) for kept, recomputed in zip(*gradients, strict=True))


def test_initial_weights_are_those_published(encoder):
    """Kaiming normal convolutions, mask vector uniform in [0, 1], BERT's blocks."""
    encoder = FeatureEncoder(64, checkpointing=False)
    for layer, kernel, channels in zip(encoder.layers, CONV_KERNELS, [1] + [64] * 6, strict=True):
        deviation = math.sqrt(2 / (kernel * channels))
        assert float(layer.conv.weight.detach().std()) == pytest.approx(deviation, rel=0.15 if channels == 1 else 0.03)
    student = Data2Vec(tiny_config(modality="speech")).student.requires_grad_(False)
    assert 0 <= float(student.masking.vector.min()) < 0.3 and 0.7 < float(student.masking.vector.max()) <= 1
    attention = student.encoder.blocks[1].attention
    assert float(attention.qkv.weight.std()) == pytest.approx(0.02, rel=0.05)
    assert float(attention.proj.bias.abs().max()) == float(attention.qkv.k_bias.abs().max()) == 0


def test_normalisation_uses_the_whole_recordings_statistics():
    clips = torch.tensor([[100, 200, -100], [0, 5, 9]], dtype=torch.int16)
    scale = torch.tensor([[50.0, 0.01], [5.0, 0.5]])
    expected = torch.tensor([[0.5, 1.5, -1.5], [-2.5, 0, 2]])
    torch.testing.assert_close(normalise(clips, scale, torch.float32), expected)
    assert normalise(clips, scale, torch.bfloat16).dtype == torch.bfloat16


def test_positions_are_those_of_the_published_stack():
    """Convolution with bias, LayerNorm without affine, GELU, five times; a bias makes padding differ from zero."""
    torch.manual_seed(0)
    positions = Positions(16, layers=5, kernel=19, groups=4, leaky=False).requires_grad_(False)
    x = expected = torch.randn(1, 30, 16)
    for layer in positions.layers:
        y = F.conv1d(expected.transpose(1, 2), layer.conv.weight, layer.conv.bias, padding=9, groups=4).transpose(1, 2)
        expected = F.gelu(F.layer_norm(y, (16,), eps=1e-5))
    padding = torch.zeros(1, 30, 1, dtype=torch.bool)
    torch.testing.assert_close(positions(x, padding), expected)
    longer, padding = F.pad(x, (0, 0, 0, 7)), torch.arange(37)[None, :, None] >= 30
    torch.testing.assert_close(positions(longer, padding)[:, :30], expected)
    positions.leaky = True
    assert float((positions(longer, padding)[:, :30] - expected).abs().max()) > 1e-3
