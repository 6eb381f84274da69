"""The gradient norm in pieces; the layouts themselves are tested in every stage by tests/integration/test_engine.py."""

import pytest
import torch
from torch import nn

from pretrain.engine import zero_partitions
from pretrain.engine.zero_partitions import _in_pieces


def plain(gradients, params, norm_type=2):
    """DeepSpeed's way: the norm of each gradient in fp64, then that of all."""
    norms = [torch.linalg.vector_norm(g.double(), ord=norm_type) for g, _ in zip(gradients, params, strict=True)]
    return torch.stack(norms).pow(norm_type).sum().pow(1 / norm_type).float() if norms else torch.tensor(0.0)


@pytest.mark.parametrize("piece", [1, 7, 2**20])
def test_the_norm_in_pieces_is_the_norm(monkeypatch, piece):
    monkeypatch.setattr(zero_partitions, "_PIECE", piece)
    torch.manual_seed(0)
    gradients = [torch.randn(3, 5), torch.empty(0), torch.full((40,), 1e-20), torch.randn(1) * 1e6]
    params = [nn.Parameter(torch.empty(g.shape)) for g in gradients]
    assert _in_pieces(plain)(gradients, params) == plain(gradients, params)
    gradients[0][1, 1] = torch.inf
    assert _in_pieces(plain)(gradients, params).isinf()
    gradients[0][1, 1] = torch.nan
    assert _in_pieces(plain)(gradients, params).isnan()
    assert _in_pieces(plain)([], []) == 0


def test_padding_is_no_gradient_and_each_piece_keeps_its_parameter():
    padding, first, second = torch.ones(9), torch.full((4,), 3.0), torch.full((2,), 4.0)
    padding._zero_padding = True
    seen = []

    def measure(gradients, params, norm_type):
        seen.extend(zip(gradients, params, strict=True))
        return plain(gradients, params, norm_type)

    params = [nn.Parameter(torch.empty(4)), nn.Parameter(torch.empty(2))]
    assert float(_in_pieces(measure)([first, padding, second], params)) == pytest.approx((36 + 32) ** 0.5)
    assert [len(g) for g, _ in seen] == [4, 2] and all(p is params[i] for i, (_, p) in enumerate(seen))
