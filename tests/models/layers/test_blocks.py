"""Blocks against plain formulas."""

import math

import pytest
import torch

from configs.published import PUBLISHED
from configs.schema import PretrainConfig
from configs.schema_training import ModelConfig
from models.layers.blocks import BlockInputs, deep_norm_alpha, initialise_blocks, select_tokens
from models.transformer import Encoder
from tests.models.common import randomise
from tests.models.test_transformer import LENGTHS, NORMS, ROWS, make_encoder, make_inputs
from tests.own import own


@pytest.mark.parametrize("norm", NORMS)
def test_rows_of_the_last_block_equal_the_full_computation(norm):
    encoder, (x, bias) = make_encoder(norm).train(), make_inputs()
    for target in ("block", "ffn"):
        full = encoder(x, bias, LENGTHS, top=2, target=target)
        lower, last = encoder(x, bias, LENGTHS, ROWS, top=2, target=target)
        assert torch.equal(lower, full[0])
        torch.testing.assert_close(last, select_tokens(full[1], ROWS))


@pytest.mark.parametrize("norm", NORMS)
def test_blocks_against_plain_formulas(norm):
    """Sums and norms in the order that each kind of block has them; the feed-forward layer's result before its sum."""
    encoder, (x, _) = make_encoder(norm), make_inputs()
    block = encoder.blocks[0]
    attention = lambda x: block.attention(x, BlockInputs())  # noqa: E731
    if norm == "pre":
        x = x + block.gamma1 * attention(block.norm1(x))
        f = block.feed_forward(block.norm2(x))
        expected = x + block.gamma2 * f
    else:
        alpha = 6**0.25 if norm == "deep" else 1
        x = block.norm1(alpha * x + attention(x))
        f = block.feed_forward(x)
        expected = block.norm2(alpha * x + f)
    output, ffn = block(make_inputs()[0], BlockInputs(hands_out_ffn=True))
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(ffn, f)


def test_bias_padding_columns_are_ignored():
    encoder, (x, bias) = make_encoder(), make_inputs()
    torch.testing.assert_close(encoder(x, bias)[0], encoder(x, bias[..., :9])[0])


def test_bfloat16_parameters_keep_a_float32_residual_stream():
    """With LayerScale at 1e-4 a bfloat16 sum would return the input unchanged."""
    encoder, (x, bias) = make_encoder().bfloat16(), make_inputs()
    randomise(encoder, std=1e-4)  # LayerScale too: the branches are all but nothing
    output = encoder(x, bias.bfloat16())[-1]
    assert output.dtype == torch.float32
    assert 0 < float((output - x).detach().abs().max()) < 1e-4


def test_bfloat16_sums_of_post_norm_blocks_are_float32():
    """The sum of 256 and 0.5 does not exist in bfloat16."""
    encoder, (x, _) = make_encoder("post").bfloat16(), make_inputs()
    seen = []
    encoder.blocks[0].norm1.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].dtype))
    (output,) = encoder(x.bfloat16())
    assert seen == [torch.float32] and output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), make_encoder("post")(x)[0], rtol=0.1, atol=0.1)


def test_initial_weights_of_deep_norm():
    """arXiv 2203.00555: gain 1 for queries and keys, (8 N)^(-1/4) for the rest; alpha (2 N)^(1/4)."""
    model = ModelConfig(layers=12, width=128, heads=4, ffn=512, norm="deep", dropout=0.0, attention_dropout=0.0)
    encoder = Encoder(own(PretrainConfig(model=model)), PUBLISHED["v1", "speech"])
    initialise_blocks(encoder.blocks, "deep")
    q, k, v = encoder.blocks[3].attention.qkv.weight.detach().chunk(3)
    fc1 = encoder.blocks[3].feed_forward.fc1.weight.detach()
    for weight, gain in ((q, 1.0), (k, 1.0), (v, 96**-0.25), (fc1, 96**-0.25)):
        assert float(weight.std()) == pytest.approx(gain * math.sqrt(2 / sum(weight.shape)), rel=0.03)
    assert encoder.blocks[0].alpha == deep_norm_alpha(12) == pytest.approx(2.2134, abs=1e-4)
    assert float(encoder.blocks[0].attention.qkv.k_bias.detach().abs().max()) == 0
