import pytest
import torch

from configs.published import PUBLISHED
from configs.schema import PretrainConfig
from configs.schema_training import ModelConfig
from models.layers.blocks import BlockInputs, select_tokens
from models.layers.stochastic_depth import factors, kept_layers, kept_samples
from models.transformer import Encoder
from tests.models.common import randomise
from tests.own import own

CPU = torch.device("cpu")


ROWS = torch.tensor([[1, 4], [0, 8], [2, 3], [7, 6], [5, 5]])


LENGTHS = torch.tensor([5, 9, 4, 8, 6])


NORMS = ["pre", "post", "deep"]


def make_encoder(norm: str = "pre", **model) -> Encoder:
    options = {"layers": 3, "dropout": 0.0, "attention_dropout": 0.0} | model
    part = PretrainConfig(model=ModelConfig(width=32, heads=4, ffn=64, norm=norm, **options))
    encoder = Encoder(own(part), PUBLISHED["v1", "vision" if norm == "pre" else "speech"])
    randomise(encoder)
    return encoder


def make_inputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(5, 9, 32, generator=generator), torch.randn(4, 9, 16, generator=generator)


def test_the_top_blocks_are_handed_out_in_order():
    encoder, (x, bias) = make_encoder(), make_inputs()
    first, second, third = encoder(x, bias, top=3)
    torch.testing.assert_close(encoder.blocks[2](second, BlockInputs(bias)), third)
    torch.testing.assert_close(encoder.blocks[0](x, BlockInputs(bias)), first)


@pytest.mark.parametrize("rows", [None, ROWS])
def test_gathered_stochastic_depth_equals_the_multiplicative_form(rows, monkeypatch):
    """The same kept sets, one of them empty: outputs and gradients agree."""
    encoder, (x, bias) = make_encoder(drop_path=0.5), make_inputs()
    kept, rates = torch.rand(6, 5, generator=torch.Generator().manual_seed(2)) > 0.5, [0.0, 0.0, 0.2, 0.2, 0.5, 0.5]
    kept[:2], kept[4] = True, False
    results = []
    for form in (kept_samples, factors):
        monkeypatch.setattr(encoder, "_draw_paths", lambda x, form=form: form(kept, rates, CPU))
        output = select_tokens(encoder(x, bias, LENGTHS, rows)[-1], torch.tensor([[0, 1]] * 5))
        results.append([output, *torch.autograd.grad(output.square().sum(), list(encoder.parameters()))])
    for gathered, multiplied in zip(*results, strict=True):
        torch.testing.assert_close(gathered, multiplied, rtol=1e-4, atol=1e-5)


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


def test_layer_drop_leaves_blocks_out_by_the_shared_seed_alone():
    encoder, (x, bias) = make_encoder("post", layer_drop=0.5).train(), make_inputs()
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed + 100)  # the rank's own generator says nothing
        kept = kept_layers(3, 0.5, seed)
        expected = x
        for block in [block for block, keep in zip(encoder.blocks, kept, strict=True) if keep]:
            expected = block(expected, BlockInputs(bias))
        for rows in (None, ROWS):  # a last block that is left out still selects
            (output,) = encoder(x, bias, rows=rows, layer_seed=seed)
            torch.testing.assert_close(output, expected if rows is None else select_tokens(expected, rows))
        seen.add(tuple(kept))
    assert len(seen) == 8
    assert abs(sum(sum(kept_layers(10, 0.05, seed)) for seed in range(1000)) / 10000 - 0.95) < 0.01
    assert torch.equal(encoder.eval()(x, bias, layer_seed=1)[0], encoder(x, bias, layer_seed=2)[0])


def test_dropout_is_of_the_encoder_and_off_in_evaluation():
    x, _ = make_inputs()
    plain, dropping = (make_encoder("post", dropout=rate, attention_dropout=rate) for rate in (0.0, 0.4))
    assert not torch.equal(dropping.train()(x)[0], dropping(x)[0])
    assert torch.equal(dropping.eval()(x)[0], plain.eval()(x)[0])


def test_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        options = {"drop_path": 0.5, "dropout": 0.1, "attention_dropout": 0.2}
        encoder = make_encoder(activation_checkpointing=checkpointing, **options).train()
        torch.manual_seed(3)
        output = encoder(*make_inputs(), LENGTHS)[-1]
        gradients.append(torch.autograd.grad(output.square().sum(), list(encoder.parameters())))
    for kept, recomputed in zip(*gradients, strict=True):
        assert torch.equal(kept, recomputed)


@pytest.mark.slow
@pytest.mark.skipif(" " in torch.__file__, reason="torch.compile does not quote its own path, which has a blank")
@pytest.mark.parametrize(("norm", "lengths", "drop_path", "layers"), [("pre", None, 0.5, 2), ("post", LENGTHS, 0.0, 1)])
def test_compiled_blocks_agree(norm, lengths, drop_path, layers):
    (x, bias), results = make_inputs(), []
    bias = bias if lengths is None else None
    for compiled in (False, True):
        encoder = make_encoder(norm, layers=layers, drop_path=drop_path, compile=compiled).train()
        for block in encoder.blocks if compiled else []:
            block.compile(dynamic=lengths is not None)
        torch.manual_seed(3)
        output = encoder(x, bias, lengths, torch.tensor([[1, 2], [0, 3], [2, 3], [1, 0], [1, 1]]))[-1]
        weights = [weight for weight in encoder.parameters() if weight.dim() > 1]
        results.append([output, *torch.autograd.grad(output.square().sum(), weights)])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(eager, compiled, rtol=1e-4, atol=1e-4)
