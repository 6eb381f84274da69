import pytest
import torch
import torch.nn.functional as F

from models.layers import attention
from models.layers.attention import attend
from models.layers.dropout import dropout


def inputs(bias_shape: tuple[int, ...] = (3, 5, 7)):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 5, 3, 4), torch.randn(2, 7, 3, 4), torch.randn(2, 7, 3, 4)
    return [tensor.requires_grad_() for tensor in (q, k, v, torch.randn(bias_shape))]


@pytest.mark.parametrize("lengths", [None, [7, 4]])
@pytest.mark.parametrize("bias_shape", [None, (3, 5, 7), (2, 3, 5, 7)])
def test_cpu_attention_and_its_gradients_equal_torch(bias_shape, lengths, monkeypatch):
    """Also what runs on a GPU: the fused kernel with the padding as a bias."""
    q, k, v, bias = inputs(bias_shape or (3, 5, 7))
    arguments = [q, k, v] if bias_shape is None else [q, k, v, bias]
    mask = torch.zeros(2, 1, 1, 7) if bias_shape is None else bias
    if lengths is not None:
        lengths = torch.tensor(lengths)
        mask = mask.masked_fill(torch.arange(7) >= lengths[:, None, None, None], -torch.inf)
    ours = attend(*arguments, lengths=lengths)
    monkeypatch.setattr(attention, "on_gpu_or_compiled", lambda q: True)
    fused = attend(*arguments, lengths=lengths)
    heads_first = (tensor.transpose(1, 2) for tensor in (q, k, v))
    theirs = F.scaled_dot_product_attention(*heads_first, attn_mask=mask).transpose(1, 2)
    weight = torch.randn_like(ours)
    expected = torch.autograd.grad((theirs * weight).sum(), arguments)
    for output in (ours, fused):
        torch.testing.assert_close(output, theirs)
        for mine, reference in zip(torch.autograd.grad((output * weight).sum(), arguments), expected, strict=True):
            torch.testing.assert_close(mine, reference)


def test_padding_of_the_fused_kernel_has_aligned_rows():
    padding = attention.padding_bias(torch.tensor([3, 13]), 13, torch.bfloat16)
    assert padding.shape == (2, 1, 1, 13) and padding.stride(0) == 16 and padding.dtype == torch.bfloat16
    assert padding[:, 0, 0].isfinite().sum(1).tolist() == [3, 13]


def test_dropout_is_unbiased_and_has_the_rate():
    torch.manual_seed(0)
    q, k, v = torch.zeros(1, 200, 4, 100), torch.zeros(1, 100, 4, 100), torch.eye(100)[None, :, None].repeat(1, 1, 4, 1)
    probabilities = attend(q, k, v, dropout=0.05) * 100  # uniform attention over one-hot values
    torch.testing.assert_close(probabilities.max(), torch.tensor(1 / 0.95))
    assert abs(float((probabilities == 0).float().mean()) - 0.05) < 0.004
    assert not torch.equal(probabilities[:, :, 0], probabilities[:, :, 1])


@pytest.mark.parametrize("lengths", [None, [7, 4]])
def test_gradients_with_dropout_are_those_of_the_drawn_mask(lengths):
    lengths = None if lengths is None else torch.tensor(lengths)

    def run(*arguments):
        torch.manual_seed(1)
        return dropout(attend(*arguments, lengths=lengths, dropout=0.4), 0.3)

    arguments = tuple(tensor.double()[:, :, :2].detach().requires_grad_() for tensor in inputs()[:3])
    assert torch.autograd.gradcheck(run, arguments)
