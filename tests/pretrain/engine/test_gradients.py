"""The norm of the gradient and its search for NaN, quickly: the same as DeepSpeed's."""

import pytest
import torch
from torch import nn

from pretrain.engine import gradients as module
from pretrain.engine.gradients import _norms, not_finite, quick_norm


def plain(gradients, params, norm_type=2):
    """DeepSpeed's way: the norm of each gradient in fp64, then that of all."""
    norms = [torch.linalg.vector_norm(g.double(), ord=norm_type) for g, _ in zip(gradients, params, strict=True)]
    return torch.stack(norms).pow(norm_type).sum().pow(1 / norm_type).float() if norms else torch.tensor(0.0)


@pytest.mark.parametrize("piece", [1, 7, 2**20])
def test_the_norm_in_pieces_is_the_norm(monkeypatch, piece):
    monkeypatch.setattr(module, "_PIECE", piece)
    torch.manual_seed(0)
    gradients = [torch.randn(3, 5), torch.empty(0), torch.full((40,), 1e-20), torch.randn(1) * 1e6]
    params = [nn.Parameter(torch.empty(g.shape)) for g in gradients]
    assert quick_norm(plain)(gradients, params) == plain(gradients, params)
    gradients[0][1, 1] = torch.inf
    assert quick_norm(plain)(gradients, params).isinf()
    gradients[0][1, 1] = torch.nan
    assert quick_norm(plain)(gradients, params).isnan()
    assert quick_norm(plain)([], []) == 0


def test_padding_is_no_gradient_and_each_piece_keeps_its_parameter():
    padding, first, second = torch.ones(9), torch.full((4,), 3.0), torch.full((2,), 4.0)
    padding._zero_padding = True
    seen = []

    def measure(gradients, params, norm_type):
        seen.extend(zip(gradients, params, strict=True))
        return plain(gradients, params, norm_type)

    params = [nn.Parameter(torch.empty(4)), nn.Parameter(torch.empty(2))]
    assert float(quick_norm(measure)([first, padding, second], params)) == pytest.approx((36 + 32) ** 0.5)
    assert [len(g) for g, _ in seen] == [4, 2] and all(p is params[i] for i, (_, p) in enumerate(seen))


def on_gpu(gradients, params, norm_type=2):
    """The path of gradients on a GPU, on a CPU's."""
    return plain(*zip(*[(g, p) for g, p in _norms(list(zip(gradients, params, strict=True)), norm_type)], strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_of_all_norms_is_the_norm(dtype):
    torch.manual_seed(0)
    gradients = [g.to(dtype) for g in (torch.randn(3, 5), torch.empty(0), torch.full((40,), 1e-20), torch.randn(1))]
    params = [nn.Parameter(torch.empty(g.shape)) for g in gradients]
    assert float(on_gpu(gradients, params)) == pytest.approx(float(plain(gradients, params)), rel=1e-7)
    gradients[2][0] = 3e38  # its square overflows fp32, and not the fp64 that the norms are taken in
    assert on_gpu(gradients, params).isfinite()
    for wrong in (torch.inf, -torch.inf, torch.nan):
        gradients[0][1, 1] = wrong
        assert not on_gpu(gradients, params).isfinite()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wrong", [torch.inf, -torch.inf, torch.nan])
def test_one_wrong_value_anywhere_is_found(dtype, wrong):
    gradients = [torch.full((3, 5), torch.finfo(dtype).max, dtype=dtype), None, torch.empty(0), torch.zeros(1)]
    assert not not_finite(gradients) and not not_finite([])
    for spoilt in (0, 3):
        copy = [g if g is None else g.clone() for g in gradients]
        copy[spoilt].view(-1)[-1] = wrong
        found = not_finite(copy)
        assert found and found.shape == (1,) and found.dtype == torch.bool
