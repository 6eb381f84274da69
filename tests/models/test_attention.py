import pytest
import torch
import torch.nn.functional as F

from models.attention import attend


def inputs(per_sample_bias: bool):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 5, 3, 4), torch.randn(2, 7, 3, 4), torch.randn(2, 7, 3, 4)
    bias = torch.randn((2, 3, 5, 7) if per_sample_bias else (3, 5, 7))
    return [tensor.requires_grad_() for tensor in (q, k, v, bias)]


@pytest.mark.parametrize("per_sample_bias", [False, True])
def test_cpu_attention_and_its_gradients_equal_torch(per_sample_bias):
    q, k, v, bias = arguments = inputs(per_sample_bias)
    ours = attend(q, k, v, bias)
    heads_first = (tensor.transpose(1, 2) for tensor in (q, k, v))
    theirs = F.scaled_dot_product_attention(*heads_first, attn_mask=bias).transpose(1, 2)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(ours)
    ours = torch.autograd.grad((ours * weight).sum(), arguments)
    for mine, reference in zip(ours, torch.autograd.grad((theirs * weight).sum(), arguments), strict=True):
        torch.testing.assert_close(mine, reference)


def test_without_bias():
    q, k, v, _ = inputs(False)
    torch.testing.assert_close(attend(q, k, v, None), attend(q, k, v, torch.zeros(3, 5, 7)))


def test_dropout_is_unbiased_and_has_the_rate():
    torch.manual_seed(0)
    q, k, v = torch.zeros(1, 200, 4, 100), torch.zeros(1, 100, 4, 100), torch.eye(100)[None, :, None].repeat(1, 1, 4, 1)
    probabilities = attend(q, k, v, None, dropout=0.05) * 100  # uniform attention over one-hot values
    torch.testing.assert_close(probabilities.max(), torch.tensor(1 / 0.95))
    assert abs(float((probabilities == 0).float().mean()) - 0.05) < 0.004
    assert not torch.equal(probabilities[:, :, 0], probabilities[:, :, 1])


def test_gradients_with_dropout_are_those_of_the_drawn_mask():
    def run(*arguments):
        torch.manual_seed(1)
        return attend(*arguments, None, 0.4)

    arguments = tuple(tensor.double().detach().requires_grad_() for tensor in inputs(False)[:3])
    assert torch.autograd.gradcheck(run, arguments)
