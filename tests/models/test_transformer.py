import pytest
import torch

from configs.schema import ModelConfig
from models.transformer import Encoder, factors, kept_samples
from tests.models.common import randomise

CPU = torch.device("cpu")


def make_encoder(**model) -> Encoder:
    encoder = Encoder(ModelConfig(layers=3, width=32, heads=4, ffn=64, **model))
    randomise(encoder)
    return encoder


def make_inputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(5, 9, 32, generator=generator), torch.randn(4, 9, 16, generator=generator)


def test_rows_of_the_last_block_equal_the_full_computation():
    encoder, (x, bias) = make_encoder().train(), make_inputs()
    rows = torch.tensor([[1, 4], [0, 8], [2, 3], [7, 6], [5, 5]])
    full = encoder(x, bias)[-1].gather(1, rows[..., None].expand(-1, -1, 32))
    torch.testing.assert_close(encoder(x, bias, rows)[-1], full)


def test_the_top_blocks_are_handed_out_in_order():
    encoder, (x, bias) = make_encoder(), make_inputs()
    first, second, third = encoder(x, bias, top=3)
    torch.testing.assert_close(encoder.blocks[2](second, bias), third)
    torch.testing.assert_close(encoder.blocks[0](x, bias), first)


def test_bias_padding_columns_are_ignored():
    encoder, (x, bias) = make_encoder(), make_inputs()
    torch.testing.assert_close(encoder(x, bias)[0], encoder(x, bias[..., :9])[0])


@pytest.mark.parametrize("rows", [None, torch.tensor([[1, 4], [0, 8], [2, 3], [7, 6], [5, 5]])])
def test_gathered_stochastic_depth_equals_the_multiplicative_form(rows, monkeypatch):
    """The same kept sets, one of them empty: outputs and gradients agree."""
    encoder, (x, bias) = make_encoder(drop_path=0.5), make_inputs()
    kept, rates = torch.rand(6, 5, generator=torch.Generator().manual_seed(2)) > 0.5, [0.0, 0.0, 0.2, 0.2, 0.5, 0.5]
    kept[:2], kept[4] = True, False
    results = []
    for form in (kept_samples, factors):
        monkeypatch.setattr(encoder, "_draw_paths", lambda x, form=form: form(kept, rates, CPU))
        output = encoder(x, bias, rows)[-1]
        results.append([output, *torch.autograd.grad(output.square().sum(), list(encoder.parameters()))])
    for gathered, multiplied in zip(*results, strict=True):
        torch.testing.assert_close(gathered, multiplied, rtol=1e-4, atol=1e-5)


def test_a_branch_that_nobody_keeps_is_run_once_with_factor_zero():
    (path,) = kept_samples(torch.zeros(1, 4, dtype=torch.bool), [0.5], CPU)
    assert path.samples.tolist() == [0] and path.scale == 0


def test_stochastic_depth_grows_linearly_and_is_off_in_evaluation():
    encoder, (x, bias) = make_encoder(drop_path=0.5), make_inputs()
    assert encoder.rates == [0.0, 0.25, 0.5]
    paths = encoder.train()._draw_paths(torch.zeros(4000, 1))
    assert paths[:2] == [None, None]
    for path, keep in zip(paths[2:], [0.75, 0.75, 0.5, 0.5], strict=True):
        assert abs(len(path.samples) / 4000 - keep) < 0.03
    assert not torch.equal(paths[4].samples, paths[5].samples)
    encoder.eval()
    assert torch.equal(encoder(x, bias)[0], encoder(x, bias)[0])


def test_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        encoder = make_encoder(drop_path=0.5, attention_dropout=0.2, activation_checkpointing=checkpointing).train()
        torch.manual_seed(3)
        output = encoder(*make_inputs())[-1]
        gradients.append(torch.autograd.grad(output.square().sum(), list(encoder.parameters())))
    for kept, recomputed in zip(*gradients, strict=True):
        assert torch.equal(kept, recomputed)


@pytest.mark.slow
@pytest.mark.skipif(" " in torch.__file__, reason="torch.compile does not quote its own path, which has a blank")
def test_compiled_blocks_agree():
    (x, bias), rows = make_inputs(), torch.tensor([[1, 4], [0, 8], [2, 3], [7, 6], [5, 5]])
    results = []
    for compiled in (False, True):
        encoder = make_encoder(drop_path=0.5, compile=compiled).train()
        if compiled:
            encoder.compile_blocks()
        torch.manual_seed(3)
        output = encoder(x, bias, rows)[-1]
        results.append([output, *torch.autograd.grad(output.square().sum(), list(encoder.parameters()))])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(eager, compiled, rtol=1e-4, atol=1e-4)


def test_bfloat16_parameters_keep_a_float32_residual_stream():
    """With LayerScale at 1e-4 a bfloat16 sum would return the input unchanged."""
    encoder, (x, bias) = Encoder(ModelConfig(layers=2, width=32, heads=4, ffn=64)).bfloat16(), make_inputs()
    randomise(encoder, std=1e-4)  # LayerScale too: the branches are all but nothing
    output = encoder(x, bias.bfloat16())[-1]
    assert output.dtype == torch.float32
    assert 0 < float((output - x).detach().abs().max()) < 1e-4
